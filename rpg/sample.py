"""Sample new networks, evenly over the permutation states: `rpg sample --experiment digits-vit`.

Writes samples/<k>.safetensors, state dicts that load as they are, and, last, samples/manifest.json. With task codes
there are networks for every code of the zoo, seen or held out, and, for comparison, one for each state and code from
the RPG before it was tuned (untuned-<k>.safetensors) and from the hypernetwork (hypernetwork-<k>.safetensors).
"""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rpg import conditions
from rpg.device import device
from rpg.files import clear, exclusive, file_entry, write_json, write_tensors
from rpg.model.rpg import RPG
from rpg.params import Condition, Sample
from rpg.progress import progress
from rpg.seeds import generator
from rpg.tasks.stack import unstack
from rpg.tokens import TokenStore
from rpg.train import load_rpg, read_config

# Networks that are sampled at once; larger batches are not faster on a CPU.
TOGETHER = 8
# What the caller asks of one network: permutation state and task code; None leaves it to chance.
Wish = tuple[int | None, str | None]


def sample_networks(
    model: RPG, asked: Sequence[Condition], store: TokenStore, params: Sample, wishes: Sequence[Wish], first: int = 0
) -> Iterator[tuple[dict[str, Tensor], int, str | None]]:
    """New state dicts on the CPU, one for each wish, with the state and the code that they were made for.

    The noise of the k-th depends on `params.seed` and `first + k` alone. Raises UserError if a wish can't be met.
    """
    for start in range(0, len(wishes), TOGETHER):
        part = wishes[start : start + TOGETHER]
        keys = [first + start + k for k in range(len(part))]
        draws = [generator(params.seed, "sample", key) for key in keys]
        values = conditions.asked(asked, store, part, [generator(params.seed, "wish", key) for key in keys])
        tokens_BLD = model.sample(values, solver=params.solver, steps=params.steps, generators=draws)
        states_B = values.get("permutation_state", torch.zeros(len(part), 1))[:, 0].long()
        codes: list[str | None] = [None] * len(part)
        if "task_code" in values:
            codes = ["".join(str(int(bit)) for bit in row) for row in values["task_code"]]
        yield from zip(unstack(store.detokenise(tokens_BLD.cpu(), states_B)), states_B.tolist(), codes, strict=True)


def wishes(store: TokenStore, params: Sample) -> list[Wish]:
    """What the layer samples: `count` networks, or `count` for each task code, evenly over the permutation states."""
    states = len(store.seeds)
    seen = dict.fromkeys(checkpoint.get("code") for checkpoint in store.checkpoints)
    held_out = dict.fromkeys(checkpoint["code"] for checkpoint in store.held_out if checkpoint["code"] not in seen)
    if params.seen:
        # Not the first ones: they come in the order of their bits.
        chosen = random.Random(params.seed).sample(list(seen), params.seen)
        seen = {code: None for code in seen if code in chosen}
    codes = [*held_out, *seen]
    return [(k % states, code) for code in codes for k in range(params.count)]


def sample_layer(
    params: Sample, tokens: Path, models: dict[str, Path], steps: dict[str, int], folder: Path, seconds: Path
) -> None:
    """Sample into `folder` from the models in the folders `models`, by name; the first is the one that is timed.

    `steps` overrides the number of steps of a model. The seconds of one network go to the file `seconds`.
    """
    with exclusive(folder):
        store = TokenStore(tokens)
        clear(folder)
        samples, spent = [], dict.fromkeys(models, 0.0)
        wanted = wishes(store, params)
        for name, path in models.items():
            model, asked = load_rpg(path, store, device()), read_config(path).model.conditions
            chosen = params.model_copy(update={"steps": steps.get(name, params.steps)})
            own = wanted if name == "rpg" else list(dict.fromkeys(wanted))
            networks = sample_networks(model, asked, store, chosen, own)
            started = time.perf_counter()
            for index, (state_dict, state, code) in enumerate(progress(networks, f"sample {name}", total=len(own))):
                spent[name] += time.perf_counter() - started
                prefix = "" if name == "rpg" else f"{name}-"
                file = folder / f"{prefix}{index:04d}.safetensors"
                write_tensors(file, state_dict)
                code_entry = {"code": code} if code else {}
                samples.append({**file_entry(file), "model": name, "state": state, **code_entry})
                started = time.perf_counter()
        write_json(folder / "manifest.json", {"samples": samples})
        write_json(seconds, {"seconds": round(spent["rpg"] / len(wanted), 4), "count": len(wanted)})
