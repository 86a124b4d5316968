"""Tokenize the checkpoints of a zoo: `rpg tokens --experiment digits-resnet`.

The stage writes tokens/tokens.safetensors (`tokens` [N, L, D]), tokens/layout.json and tokens/stats.safetensors. N
checkpoints, L tokens per checkpoint, D token width.
"""

import hashlib
import json
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Tokens
from rpg.tokenizer.canonical import canonical
from rpg.tokenizer.copied import Copied, copied_tensors
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, tokenize_rows
from rpg.tokenizer.store import read_checkpoint
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.utils.errors import counted
from rpg.utils.files import (
    atomic,
    exclusive,
    file_entry,
    read_json,
    write_sealed,
    write_tensors,
)
from rpg.zoo.manifest import Checkpoint, checking_zoo, list_zoo

# Bytes of tokens that are written and hashed at once.
BLOCK = 2**23
# Bytes of one write. Linux caches larger ones in pages of 2 MiB, which took a virtual machine up to ten times as long.
WRITE = 2**19
# Blocks in memory. One thread makes and writes blocks, the main thread hashes them, and a third one checks the zoo's
# files. The number of these threads is fixed: `--threads` counts the threads among which torch divides an operation,
# and those on one chunk of weights are too small to gain. On a single core the threads take turns. A second writer
# would only wait, because Linux locks a file while a thread writes to it.
AHEAD = 4


def write_tokens(zoo: Path, params: Tokens, folder: Path) -> None:
    """Tokenize the collected zoo into `folder`.

    Memory holds the blocks that wait to be hashed, and two checkpoints if they are adapters. Raises UserError if a
    checkpoint is missing, was changed after training or does not fit the others.
    """
    with exclusive(folder):
        # layout.json is written last: a store without it is incomplete.
        (folder / "layout.json").unlink(missing_ok=True)
        collected = list_zoo(zoo)
        checkpoints = [checkpoint for checkpoint in collected.checkpoints if not checkpoint.held_out]
        held_out = [checkpoint for checkpoint in collected.checkpoints if checkpoint.held_out]
        source = _Source(zoo, checkpoints, collected.tensors, params)
        path = zoo / checkpoints[0].file
        adapters = path.name == "adapter_model.safetensors"
        params.check_form(read_json(path.with_name("adapter_config.json"), "rpg zoo") if adapters else None)
        # The checks of the zoo's files end before the tokens get their final name.
        with atomic(folder / "tokens.safetensors") as temporary, checking_zoo(zoo, collected.checkpoints):
            copied = copied_tensors(
                lambda: (source.read(checkpoint) for checkpoint in collected.checkpoints),
                collected.buffers or (),
                collected.tied or {},
                bool(params.canonical),
                params.only,
            )
            if str(copied):
                print(f"tokens: copied instead of generated: {copied}", flush=True)
            layout, stats, skipped = source.measure(copied)
            digest = write_rows(temporary, layout, stats, source.state_dicts(layout), len(checkpoints))
        seeds = sorted(skipped)
        print(
            f"tokens: {counted(len(checkpoints), 'checkpoint')} of {counted(len(seeds), 'run')}; in each,"
            f" {counted(len(layout.tokenized), 'tensor')} with {counted(layout.weights, 'number')} become"
            f" {counted(layout.length, 'token')} of {layout.width}",
            flush=True,
        )
        of_states = {
            tensor.name: torch.stack([skipped[seed][tensor.name] for seed in seeds]) for tensor in layout.skipped
        }
        write_tensors(folder / "stats.safetensors", Tokenizer(layout, stats, of_states).tensors())
        files = [file_entry(folder / "stats.safetensors"), file_entry(folder / "tokens.safetensors", digest=digest)]
        tree = {
            "layout": layout.tree(),
            "checkpoints": [checkpoint.tree() for checkpoint in checkpoints],
            "held_out": [checkpoint.tree() for checkpoint in held_out],
            "seeds": seeds,
            "files": files,
        }
        write_sealed(folder / "layout.json", tree)


@dataclass(frozen=True)
class _Source:
    """The checkpoints that become tokens."""

    zoo: Path
    checkpoints: list[Checkpoint]
    # The tensors' names in order.
    names: list[str]
    params: Tokens

    def read(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Return a checkpoint's state dict."""
        return read_checkpoint(self.zoo / checkpoint.file, self.names)

    def measure(self, copied: Copied) -> tuple[Layout, Stats, dict[int, dict[str, Tensor]]]:
        """Return layout, statistics, and seed → the tensors copied; UserError if a checkpoint does not fit."""
        first = self.read(self.checkpoints[0])
        layout = Layout.of(first, self.params.width, bool(self.params.canonical), copied, bool(self.params.by_channel))
        skipped: dict[int, dict[str, Tensor]] = {}

        def check(checkpoint: Checkpoint, state_dict: dict[str, Tensor]) -> None:
            layout.check(state_dict, self.zoo / checkpoint.file, "leave this checkpoint out of the zoo")
            skipped[checkpoint.seed] = {tensor.name: state_dict[tensor.name] for tensor in layout.skipped}

        return layout, Stats.of(layout, self.state_dicts(layout, check)), skipped

    def state_dicts(
        self, layout: Layout, check: Callable[[Checkpoint, dict[str, Tensor]], None] | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the checkpoints, with low-rank pairs in canonical form; `check` sees them before."""
        # Each checkpoint is rotated to the previous one, the first of a run to the last of the previous run.
        before = None
        for checkpoint in self.checkpoints:
            state_dict = self.read(checkpoint)
            if check:
                check(checkpoint, state_dict)
            if layout.canonical:
                state_dict = before = canonical(state_dict, before)
            yield state_dict


def write_rows(path: Path, layout: Layout, stats: Stats, state_dicts: Iterable[dict[str, Tensor]], count: int) -> str:
    """Write the tokens of `count` state dicts as the safetensors file `path`; return its SHA-256.

    Another thread makes and writes blocks of rows, and this thread hashes them. On a full disk the function raises
    OSError.
    """
    header = safetensors_header("tokens", (count, layout.length, layout.width))
    digest = hashlib.sha256(header)
    rows = max(1, BLOCK // (4 * layout.width))
    buffers = [torch.empty(min(rows, layout.length), layout.width) for _ in range(AHEAD)]
    offset, waiting = len(header), deque[Future[Tensor]]()
    with path.open("rb+") as file, ThreadPoolExecutor(1) as pool:

        def write(state_dict: dict[str, Tensor], start: int, offset: int, into_RD: Tensor) -> Tensor:
            tokenize_rows(state_dict, layout, stats, start, into_RD)
            write_at(file.fileno(), bytes_of(into_RD), offset)
            return into_RD

        write_at(file.fileno(), memoryview(header), 0)
        os.posix_fallocate(file.fileno(), 0, len(header) + 4 * count * layout.length * layout.width)
        for state_dict in state_dicts:
            for start in range(0, layout.length, rows):
                if len(waiting) == AHEAD:
                    digest.update(bytes_of(waiting.popleft().result()))
                into_RD = buffers[0][: layout.length - start]
                # The next block takes the buffer whose block has waited longest.
                buffers.append(buffers.pop(0))
                waiting.append(pool.submit(write, state_dict, start, offset, into_RD))
                offset += into_RD.nbytes
        for block in waiting:
            digest.update(bytes_of(block.result()))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return tensor.numpy().data.cast("B")


def write_at(file: int, content: memoryview, offset: int) -> None:
    """Write all of `content` to the open file at `offset`, and let the disk start to store it."""
    start = offset
    while content:
        # A nearly full disk takes a part; the next call raises OSError.
        written = os.pwrite(file, content[:WRITE], offset)
        content, offset = content[written:], offset + written
    # Linux starts to store pages that are not needed. Otherwise it waits for the flush at the end.
    os.posix_fadvise(file, start, offset - start, os.POSIX_FADV_DONTNEED)


def safetensors_header(name: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of a safetensors file of one float32 tensor.

    safetensors' own writer would need the whole tensor in memory.
    """
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header
