"""Sample new networks: `rpg sample --experiment digits-vit`, or one with `--state 3 --seed 7 --out w.safetensors`.

The layer writes samples/<k>.safetensors, state dicts that load as they are, and, last, samples/manifest.json.
"""

import time
from pathlib import Path

from torch import Tensor

from rpg.device import device
from rpg.errors import UserError
from rpg.files import clear, exclusive, file_entry, write_json, write_tensors
from rpg.model.rpg import RPG
from rpg.params import Sample
from rpg.progress import progress
from rpg.seeds import generator
from rpg.tokens import TokenStore
from rpg.train import load_rpg


def sample_one(
    model: RPG, store: TokenStore, params: Sample, *, state: int, seed: int, index: int
) -> dict[str, Tensor]:
    """One new state dict of permutation state `state`, on the CPU; its noise depends on `seed` and `index` alone.

    Raises UserError if there is no such state.
    """
    if not 0 <= state < len(store.seeds):
        raise UserError(f"state {state}: the zoo has states 0 to {len(store.seeds) - 1}, one per seed")
    draw = generator(seed, "sample", index)
    tokens_LD = model.sample(state, solver=params.solver, steps=params.steps, generator=draw)
    return store.detokenise(tokens_LD.cpu(), state)


def sample_layer(params: Sample, tokens: Path, rpg: Path, folder: Path, seconds: Path) -> None:
    """Sample `params.count` networks into `folder`, evenly over the permutation states, and the time to `seconds`."""
    with exclusive(folder):
        store = TokenStore(tokens)
        model = load_rpg(rpg, store, device())
        clear(folder)
        samples, spent = [], 0.0
        for index in progress(range(params.count), "sample", total=params.count):
            state = index % len(store.seeds)
            started = time.perf_counter()
            state_dict = sample_one(model, store, params, state=state, seed=params.seed, index=index)
            spent += time.perf_counter() - started
            path = folder / f"{index:04d}.safetensors"
            write_tensors(path, state_dict)
            samples.append({**file_entry(path), "state": state})
        write_json(folder / "manifest.json", {"samples": samples})
        write_json(seconds, {"seconds": round(spent / params.count, 4), "count": params.count})


def sample_file(params: Sample, tokens: Path, rpg: Path, out: Path, *, state: int, seed: int) -> None:
    """Sample one network of `state` into the file `out`."""
    store = TokenStore(tokens)
    model = load_rpg(rpg, store, device())
    write_tensors(out, sample_one(model, store, params, state=state, seed=seed, index=0))
