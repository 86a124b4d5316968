"""Tokenize the checkpoints of a zoo: `rpg tokens --experiment digits-resnet`.

The stage writes tokens/tokens.safetensors (`tokens` [N, L, D]), tokens/layout.json and tokens/stats.safetensors. N
checkpoints, L tokens per checkpoint, D token width.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rpg.config.experiment import Tokens
from rpg.tokenizer.canonical import canonical
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, tokenize
from rpg.tokenizer.store import read_checkpoint
from rpg.utils.errors import UserError
from rpg.utils.files import (
    atomic,
    exclusive,
    file_entry,
    write_sealed,
    write_tensors,
)
from rpg.zoo.manifest import read_zoo


def write_tokens(zoo: Path, params: Tokens, folder: Path) -> None:
    """Tokenize the collected zoo into `folder`. Memory holds one checkpoint at a time, or two adapters."""
    with exclusive(folder):
        # layout.json is written last: a store without it is incomplete.
        (folder / "layout.json").unlink(missing_ok=True)
        zoo_checkpoints, names = read_zoo(zoo)
        checkpoints = [checkpoint for checkpoint in zoo_checkpoints if not checkpoint.held_out]
        held_out = [checkpoint for checkpoint in zoo_checkpoints if checkpoint.held_out]
        paths = [zoo / checkpoint.file for checkpoint in checkpoints]
        _check_form(paths[0], params)
        layout = Layout.of(read_checkpoint(paths[0], names), params.width, bool(params.canonical))
        skipped: dict[int, dict[str, Tensor]] = {}

        def checked() -> Iterator[dict[str, Tensor]]:
            for path, checkpoint in zip(paths, checkpoints, strict=True):
                state_dict = read_checkpoint(path, names)
                layout.check(state_dict, path, "leave this checkpoint out of the zoo")
                skipped[checkpoint.seed] = {tensor.name: state_dict[tensor.name] for tensor in layout.skipped}
                yield state_dict

        def canonicalized(state_dicts: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
            # Each checkpoint is rotated to the previous one, the first of a run to the last of the previous run.
            before = None
            for state_dict in state_dicts:
                if layout.canonical:
                    state_dict = before = canonical(state_dict, before)
                yield state_dict

        stats = Stats.of(layout, canonicalized(checked()))
        shape = (len(paths), layout.length, layout.width)
        with atomic(folder / "tokens.safetensors") as temporary:
            tokens_NLD = create_safetensors(temporary, "tokens", shape)
            for index, state_dict in enumerate(canonicalized(read_checkpoint(path, names) for path in paths)):
                tokenize(state_dict, layout, stats, into=torch.from_numpy(tokens_NLD[index]))
            tokens_NLD.flush()
        seeds = sorted(skipped)
        tensors = {f"stats.{name}": tensor for name, tensor in vars(stats).items()}
        for tensor in layout.skipped:
            tensors[f"skipped.{tensor.name}"] = torch.stack([skipped[seed][tensor.name] for seed in seeds])
        write_tensors(folder / "stats.safetensors", tensors)
        files = [file_entry(folder / name) for name in ("stats.safetensors", "tokens.safetensors")]
        # Only the layout of adapters has the key `canonical`.
        described = {key: value for key, value in asdict(layout).items() if value is not False}
        tree = {
            "layout": described,
            "checkpoints": [checkpoint.tree() for checkpoint in checkpoints],
            "held_out": [checkpoint.tree() for checkpoint in held_out],
            "seeds": seeds,
            "files": files,
        }
        write_sealed(folder / "layout.json", tree)


def _check_form(path: Path, params: Tokens) -> None:
    """Raise UserError unless tokens.canonical is set for adapters and unset for all other checkpoints."""
    adapters = path.name == "adapter_model.safetensors"
    if adapters != (params.canonical is not None):
        fault = "missing; adapters need true or false" if adapters else "only adapters have it; remove the key"
        raise UserError(f"params.yaml: tokens.canonical: {fault}")


def create_safetensors(path: Path, name: str, shape: tuple[int, ...]) -> np.memmap:
    """Create a safetensors file of one float32 tensor as a writable memory map.

    safetensors' own writer would need the whole tensor in memory.
    """
    end = 4 * math.prod(shape)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    # On a full disk fallocate raises OSError. Writing to a sparse file through a map would kill the process.
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, 8 + len(header) + end)
    return np.memmap(path, np.float32, "r+", offset=8 + len(header), shape=shape)
