"""Tokenize the checkpoints of a zoo: `rpg tokens --experiment digits-resnet`.

Writes tokens/tokens.safetensors (`tokens` [N, L, D]), tokens/layout.json and tokens/stats.safetensors. N checkpoints, L
tokens per checkpoint, D token width.
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
    """Tokenize the collected zoo into `folder`, one checkpoint in memory at a time, two if they are adapters."""
    with exclusive(folder):
        # Written last, so its absence says that the store is not whole.
        (folder / "layout.json").unlink(missing_ok=True)
        zoo_checkpoints, names = read_zoo(zoo)
        checkpoints = [checkpoint for checkpoint in zoo_checkpoints if not checkpoint["held_out"]]
        held_out = [checkpoint for checkpoint in zoo_checkpoints if checkpoint["held_out"]]
        paths = [zoo / checkpoint["file"] for checkpoint in checkpoints]
        _check_form(paths[0], params)
        layout = Layout.of(read_checkpoint(paths[0], names), params.width, bool(params.canonical))
        skipped: dict[int, dict[str, Tensor]] = {}

        def checked() -> Iterator[dict[str, Tensor]]:
            for path, checkpoint in zip(paths, checkpoints, strict=True):
                state_dict = read_checkpoint(path, names)
                layout.check(state_dict, path, "leave this checkpoint out of the zoo")
                skipped[checkpoint["seed"]] = {tensor.name: state_dict[tensor.name] for tensor in layout.skipped}
                yield state_dict

        def formed(state_dicts: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
            # The checkpoints of a run follow each other; its first is rotated to the last of the run before.
            before = None
            for state_dict in state_dicts:
                if layout.canonical:
                    state_dict = before = canonical(state_dict, before)
                yield state_dict

        stats = Stats.of(layout, formed(checked()))
        shape = (len(paths), layout.length, layout.width)
        with atomic(folder / "tokens.safetensors") as temporary:
            tokens_NLD = create_safetensors(temporary, "tokens", shape)
            for index, state_dict in enumerate(formed(read_checkpoint(path, names) for path in paths)):
                tokenize(state_dict, layout, stats, into=torch.from_numpy(tokens_NLD[index]))
            tokens_NLD.flush()
        seeds = sorted(skipped)
        tensors = {f"stats.{name}": tensor for name, tensor in vars(stats).items()}
        for tensor in layout.skipped:
            tensors[f"skipped.{tensor.name}"] = torch.stack([skipped[seed][tensor.name] for seed in seeds])
        write_tensors(folder / "stats.safetensors", tensors)
        files = [file_entry(folder / name) for name in ("stats.safetensors", "tokens.safetensors")]
        # Only adapters have a form to speak of.
        described = {key: value for key, value in asdict(layout).items() if value is not False}
        tree = {"layout": described, "checkpoints": checkpoints, "held_out": held_out, "seeds": seeds}
        write_sealed(folder / "layout.json", {**tree, "files": files})


def _check_form(path: Path, params: Tokens) -> None:
    """UserError unless params say of adapters, and of nothing else, whether they are brought into one form."""
    adapters = path.name == "adapter_model.safetensors"
    if adapters != (params.canonical is not None):
        fault = "must be given, true or false, for adapters" if adapters else "is of adapters alone; leave it out"
        raise UserError(f"params.yaml: tokens.canonical: {fault}")


def create_safetensors(path: Path, name: str, shape: tuple[int, ...]) -> np.memmap:
    """A safetensors file of one float32 tensor as a writable memory map; safetensors' own writer wants it in memory."""
    end = 4 * math.prod(shape)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    # On a full disk this raises OSError; writing to a map of a file with holes would end the process.
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, 8 + len(header) + end)
    return np.memmap(path, np.float32, "r+", offset=8 + len(header), shape=shape)
