"""Sample new networks, evenly over the permutation states: `rpg sample --experiment digits-vit`.

Writes samples/<k>.safetensors, state dicts that load as they are, and, last, samples/manifest.json. With task codes
there are networks for every code of the zoo, seen or held out, and, for comparison, one for each state and code from
the RPG before it was tuned (untuned-<k>.safetensors) and from the hypernetwork (hypernetwork-<k>.safetensors).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

import torch

from rpg.blocks import Precision
from rpg.config.experiment import Experiment, Sample
from rpg.config.model import Condition
from rpg.model.rpg import RPG
from rpg.paths import Paths
from rpg.tasks.loading import load_differentiable, load_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore
from rpg.training import conditions
from rpg.training.model_file import load_rpg, read_config
from rpg.utils.device import device, worth_compiling
from rpg.utils.files import clear, exclusive, file_entry, write_sealed
from rpg.utils.progress import progress
from rpg.utils.rng import generator

# Networks that are sampled at once; larger batches are not faster on a CPU.
TOGETHER = 8
# Calls of the denoiser, of all tokens of a network, from which they are worth torch's compiler.
COMPILED = 50
# What the caller asks of one network: permutation states and task code; None leaves it to chance.
Wish = tuple[conditions.States | None, str | None]
# A state dict, with the states and the code that it was made for.
Network = tuple[StateDict, conditions.States, str | None]


def sample_networks(
    model: RPG,
    asked: Sequence[Condition],
    store: TokenStore,
    params: Sample,
    wishes: Sequence[Wish],
    vectors: conditions.Vectors | None = None,
    first: int = 0,
    precision: Precision = "float32",
) -> Iterator[Network]:
    """New state dicts on the CPU, one for each wish, with the states and the code that they were made for.

    `vectors`: name → numbers of conditions of the kind `vector`, for all of them; those that are left out are drawn.
    The noise of the k-th depends on `params.seed` and `first + k` alone. `precision` is that of products on a GPU.
    Raises UserError if a wish can't be met.
    """
    if len(wishes) * params.steps >= COMPILED and worth_compiling(device(), model.width):
        model.denoiser.compile()
    for start in range(0, len(wishes), TOGETHER):
        part = wishes[start : start + TOGETHER]
        keys = [first + start + k for k in range(len(part))]
        draws = [generator(params.seed, "sample", key) for key in keys]
        values = conditions.asked(asked, store, part, [generator(params.seed, "wish", key) for key in keys], vectors)
        tokens_BLD = model.sample(
            values,
            solver=params.solver,
            steps=params.steps,
            generators=draws,
            temperature=params.temperature,
            precision=precision,
        )
        shares_BS = values.get("permutation_state", torch.ones(len(part), 1))
        states = [tuple(row.nonzero()[:, 0].tolist()) for row in shares_BS]
        # What no token holds can't be mixed; it is that of the first state.
        weights = store.detokenize(tokens_BLD, torch.tensor([first for first, *_ in states]))
        codes: list[str | None] = [None] * len(part)
        if "task_code" in values:
            codes = ["".join(str(int(bit)) for bit in row) for row in values["task_code"]]
        yield from zip(unstack(weights), states, codes, strict=True)


def wishes(store: TokenStore, params: Sample, states: bool) -> list[Wish]:
    """What the stage samples: `count` networks, or `count` for each task code, evenly over the permutation states.

    And `between` networks between two states each. If the model has no `states`, none is asked for.
    """
    count = len(store.seeds)
    seen = dict.fromkeys(checkpoint.get("code") for checkpoint in store.checkpoints)
    held_out = dict.fromkeys(checkpoint["code"] for checkpoint in store.held_out if checkpoint["code"] not in seen)
    if params.seen:
        # Those with a pair that is held out, then any: not the first ones, for they come in the order of their bits.
        drawn = random.Random(params.seed).sample(list(seen), len(seen))
        drawn.sort(key=lambda code: all(store.task_set(state, code) == "seen" for state in range(count)))
        chosen = drawn[: params.seen]
        seen = {code: None for code in seen if code in chosen}
    codes = [*held_out, *seen]
    pairs = list(combinations(range(count), 2))
    random.Random(params.seed).shuffle(pairs)
    asked: list[conditions.States] = [(k % count,) for k in range(params.count)]
    asked += [pairs[k % len(pairs)] for k in range(params.between)]
    return [(chosen if states else None, code) for code in codes for chosen in asked]


@dataclass(frozen=True)
class Source:
    """A model that is sampled: its folder, its number of steps if not that of params.yaml, and what follows.

    `finish` takes what the model makes of several networks.
    """

    folder: Path
    steps: int | None = None
    finish: Callable[[Sequence[StateDict]], list[StateDict]] | None = None


def _finished(
    networks: Iterator[Network], finish: Callable[[Sequence[StateDict]], list[StateDict]], together: int
) -> Iterator[Network]:
    """The networks after `finish`, which takes so many at once."""
    while part := list(islice(networks, together)):
        state_dicts, states, codes = zip(*part, strict=True)
        yield from zip(finish(state_dicts), states, codes, strict=True)


def sample_all(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Sample all networks of the experiment; the seconds that RPG took for one go to a file of their own."""
    params, task = experiment.sample, load_task(experiment.task, data_root)
    sources = {"rpg": Source(paths.generator(experiment))}
    if experiment.tune:
        sources["untuned"] = Source(paths.folder("train"))
    if experiment.hypernetwork:
        # It has learned one step from pure noise and no other.
        recount = load_differentiable(experiment.task, data_root).recount
        sources["hypernetwork"] = Source(paths.folder("hypernetwork"), steps=1, finish=recount)
    with exclusive(paths.folder("sample")):
        store = TokenStore(paths.folder("tokens"))
        clear(paths.folder("sample"))
        samples, spent = [], dict.fromkeys(sources, 0.0)
        wanted = wishes(store, params, any(one.kind == "permutation_state" for one in experiment.model.conditions))
        for name, source in sources.items():
            model, asked = load_rpg(source.folder, store, device()), read_config(source.folder).model.conditions
            chosen = params.model_copy(update={"steps": source.steps or params.steps})
            own = wanted if name == "rpg" else list(dict.fromkeys(wanted))
            networks = sample_networks(model, asked, store, chosen, own, precision=experiment.train.precision)
            if source.finish:
                networks = _finished(networks, source.finish, task.judge_batch)
            started = time.perf_counter()
            for index, (state_dict, states, code) in enumerate(progress(networks, f"sample {name}", total=len(own))):
                spent[name] += time.perf_counter() - started
                prefix = "" if name == "rpg" else f"{name}-"
                file = task.write(paths.folder("sample") / f"{prefix}{index:04d}", state_dict)
                code_entry = {"code": code} if code else {}
                mixed = {"between": list(states)} if len(states) > 1 else {}
                belongs = "between" if mixed else store.task_set(states[0], code)
                facts = {"model": name, "set": belongs, "state": states[0], **code_entry, **mixed}
                samples.append({**file_entry(file, paths.folder("sample")), **facts})
                started = time.perf_counter()
        write_sealed(paths.folder("sample") / "manifest.json", {"samples": samples})
        write_sealed(
            paths.file("sample.seconds"), {"seconds": round(spent["rpg"] / len(wanted), 4), "count": len(wanted)}
        )
