"""Sample new networks, evenly over the permutation states: `rpg sample --experiment digits-vit`.

Writes samples/<k>.safetensors, state dicts that load as they are, and, last, samples/manifest.json. With task codes,
every code of the zoo, seen or held out, has networks. For comparison, the RPG before tuning, if it was trained
(untuned-<k>.safetensors), and the hypernetwork (hypernetwork-<k>.safetensors) each make one network per state and code.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rpg.blocks import Precision
from rpg.config.experiment import Experiment, Sample
from rpg.model.rpg import RPG
from rpg.model.set_encoder import GROUPS
from rpg.paths import Paths
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_rpg, read_config
from rpg.training.prompts import Prompts, prompts_of
from rpg.utils.condition_requests import States, Vectors, met
from rpg.utils.device import device, worth_compiling
from rpg.utils.files import clear, exclusive, file_entry, write_sealed
from rpg.utils.progress import progress
from rpg.utils.rng import generator

if TYPE_CHECKING:
    from rpg.peers.base import Peer

# The number of networks in one batch; larger batches are not faster on a CPU.
TOGETHER = 8
# From this number of denoiser calls on all tokens of a network, torch's compiler saves more time than it takes.
COMPILED = 50
# The requested permutation states and task code of one network; None requests a random choice.
Request = tuple[States | None, str | None]
# A state dict, with the states and the code of its request.
Network = tuple[StateDict, States, str | None]


def sample_networks(
    model: "RPG | Peer",
    table: ConditionTable,
    tokenizer: Tokenizer,
    params: Sample,
    requests: Sequence[Request],
    vectors: Vectors | None = None,
    first: int = 0,
    precision: Precision = "float32",
    prompts: Tensor | None = None,
) -> Iterator[Network]:
    """Yield a new state dict on the CPU for each request, with its states and its code.

    `vectors` maps conditions of the kind `vector` to numbers for all networks; omitted vectors are drawn. The noise of
    network k depends on `params.seed` and `first + k` alone. `precision` applies to matrix products on a GPU.
    `prompts` [N, S, K, F + 1] are the values of a prompt. Raises UserError if the model cannot meet a
    request.
    """
    if isinstance(model, RPG) and len(requests) * params.steps >= COMPILED and worth_compiling(device(), model.width):
        model.denoiser.compile()
    for start in range(0, len(requests), TOGETHER):
        part = requests[start : start + TOGETHER]
        keys = [first + start + k for k in range(len(part))]
        draws = [generator(params.seed, "sample", key) for key in keys]
        # The tag "wish" is part of a seed, so it must not change.
        request_draws = [generator(params.seed, "wish", key) for key in keys]
        shown = None if prompts is None else prompts[start : start + TOGETHER]
        values = table.requested(part, request_draws, vectors, shown)
        tokens_BLD = model.sample(
            values,
            solver=params.solver,
            steps=params.steps,
            generators=draws,
            temperature=params.temperature,
            precision=precision,
        )
        told = {name: of for name, of in values.items() if name not in GROUPS}
        rows = [{name: of[row].tolist() for name, of in told.items()} for row in range(len(part))]
        states, codes = zip(*map(met, rows), strict=True)
        # Tensors outside of the tokens can't be mixed; they come from the first state.
        weights = tokenizer.detokenize(tokens_BLD, torch.tensor([first for first, *_ in states]))
        yield from zip(unstack(weights), states, codes, strict=True)


def sample_requests(store: TokenStore, params: Sample, states: bool) -> list[Request]:
    """Return the stage's requests: `count` networks per task code, if any, evenly over the permutation states.

    Each code also has `between` networks between two states each. Without permutation states (`states` False), the
    requests leave them out.
    """
    count = len(store.seeds)
    seen = dict.fromkeys(checkpoint.code for checkpoint in store.checkpoints)
    held_out = dict.fromkeys(checkpoint.code for checkpoint in store.held_out if checkpoint.code not in seen)
    if params.seen:
        # Draw codes at random, because `seen` is in the order of the bits; codes with a held-out pair come first.
        drawn = random.Random(params.seed).sample(list(seen), len(seen))
        drawn.sort(key=lambda code: all(store.task_set(state, code) == "seen" for state in range(count)))
        chosen = drawn[: params.seen]
        seen = {code: None for code in seen if code in chosen}
    codes = [*held_out, *seen]
    pairs = list(combinations(range(count), 2))
    random.Random(params.seed).shuffle(pairs)
    requested_states: list[States] = [(k % count,) for k in range(params.count)]
    requested_states += [pairs[k % len(pairs)] for k in range(params.between)]
    return [(chosen if states else None, code) for code in codes for chosen in requested_states]


def _prompts(prompts: Prompts | None, requests: Sequence[Request], params: Sample) -> Tensor | None:
    """Return a prompt of training examples for each request; None for an RPG that takes none."""
    if prompts is None:
        return None
    # Each sample of a code has examples of its own.
    return prompts.sampled([code or "" for _, code in requests], params, generator(params.seed, "prompts"))


@dataclass(frozen=True)
class Source:
    """A model to sample from: its folder, and its steps if they differ from params.yaml."""

    folder: Path
    steps: int | None = None


def sample_all(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Sample all networks of the experiment, and write RPG's seconds per network to a file of its own."""
    params, task = experiment.sample, load_task(experiment.task, data_root)
    sources = {"rpg": Source(paths.generator(experiment))}
    if experiment.tune and experiment.train.steps:
        sources["untuned"] = Source(paths.folder("train"))
    if experiment.hypernetwork:
        # The hypernetwork has learned a single step from pure noise.
        sources["hypernetwork"] = Source(paths.folder("hypernetwork"), steps=1)
    with exclusive(paths.folder("sample")):
        store = TokenStore(paths.folder("tokens"))
        clear(paths.folder("sample"))
        samples, spent = [], dict.fromkeys(sources, 0.0)
        has_states = any(one.kind == "permutation_state" for one in experiment.model.conditions)
        requests = sample_requests(store, params, has_states)
        prompts = prompts_of(experiment, paths.folder("base"), data_root)
        for name, source in sources.items():
            config = read_config(source.folder)
            table = ConditionTable.of(config.model.conditions, store)
            chosen = params.model_copy(update={"steps": source.steps or params.steps})
            own = requests if name == "rpg" else list(dict.fromkeys(requests))
            shown = _prompts(prompts, own, params)
            # A prompt takes the place of the code.
            told = own if shown is None else [(states, None) for states, _ in own]
            if config.model.generator is None:
                model = load_rpg(source.folder, store, device())
                networks = sample_networks(
                    model, table, store, chosen, told, precision=experiment.train.precision, prompts=shown
                )
            else:
                # RPG does not depend on the other generators' code.
                from rpg.generator.peer_samples import peer_networks
                from rpg.peers.loading import load_peer

                peer = load_peer(source.folder, store, device())
                networks = peer_networks(peer, task, table, store, chosen, told, shown)
            started = time.perf_counter()
            for index, (state_dict, states, code) in enumerate(progress(networks, f"sample {name}", total=len(own))):
                spent[name] += time.perf_counter() - started
                code = code or own[index][1]
                prefix = "" if name == "rpg" else f"{name}-"
                file = task.write(paths.folder("sample") / f"{prefix}{index:04d}", state_dict)
                code_entry = {"code": code} if code else {}
                mixed = {"between": list(states)} if len(states) > 1 else {}
                task_set = "between" if mixed else store.task_set(states[0], code)
                facts = {"model": name, "set": task_set, "state": states[0], **code_entry, **mixed}
                samples.append({**file_entry(file, paths.folder("sample")), **facts})
                started = time.perf_counter()
        write_sealed(paths.folder("sample") / "manifest.json", {"samples": samples})
        write_sealed(
            paths.file("sample.seconds"), {"seconds": round(spent["rpg"] / len(requests), 4), "count": len(requests)}
        )
