"""Measure speed and memory of tokenizing and detokenizing a large network: `python -m benchmarks tokens`."""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from benchmarks.common import report
from rpg.config.experiment import Tokens
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize, tokenize
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.tokenizer.tokens import create_safetensors, write_tokens
from rpg.utils.files import file_entry, write_sealed, write_tensors


def measure_tokens(
    names: list[str], width: int, checkpoints: int, threads: int, rounds: int, out: Path
) -> list[dict[str, Any]]:
    """Print and write, for each step, the GB/s of weights and the peak memory in checkpoints.

    One step writes the whole token store of a zoo with `checkpoints` entries, all of the same file.
    """
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            rows += _of_network(name, width, checkpoints, rounds, Path(folder))
    return report(rows, out, width=width, threads=threads, checkpoints=checkpoints)


def _of_network(name: str, width: int, checkpoints: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    state_dict = timm.create_model(name).state_dict()
    layout = Layout.of(state_dict, width)
    stats = Stats.of(layout, [state_dict])
    skipped = {tensor.name: state_dict[tensor.name] for tensor in layout.skipped}
    names, path = list(state_dict), folder / "checkpoint.safetensors"
    write_tensors(path, state_dict)
    size = sum(tensor.nbytes for tensor in state_dict.values())
    del state_dict
    store = create_safetensors(folder / "tokens.safetensors", "tokens", (1, layout.length, width))
    into = torch.from_numpy(store[0])

    # As in the stages: from the file to the store on disk, and from the store to a state dict.
    steps: dict[str, Callable[[], Any]] = {
        "statistics": lambda: Stats.of(layout, [read_checkpoint(path, names)]),
        "tokenize": lambda: tokenize(read_checkpoint(path, names), layout, stats, into=into),
        "detokenize": lambda: detokenize(torch.from_numpy(store[0]), layout, stats, skipped),
    }
    _write_zoo(folder, path, names, checkpoints)
    steps[f"store of {checkpoints}"] = lambda: write_tokens(folder, Tokens(width=width), folder / "store")
    # A training's read of one checkpoint from an open store.
    written = cache(lambda: TokenStore(folder / "store"))
    steps["load"] = lambda: torch.stack([written()[0]])
    rows = []
    for step, function in steps.items():
        if step == "load":
            # Warm up: opening the store reads all of it for its hash, and training reads each checkpoint many times.
            for _ in range(3):
                function()
        seconds, peaks = [], []
        count = checkpoints if step.startswith("store") else 1
        for _ in range(rounds if count == 1 else 1):
            with AnonymousMemory() as memory:
                started = time.perf_counter()
                function()
                seconds.append(time.perf_counter() - started)
            peaks.append(memory.peak / size)
        rates = [count * size / each / 1e9 for each in seconds]
        rows.append(
            {
                "network": name,
                "GB": size / 1e9,
                "step": step,
                "GB/s": statistics.median(rates),
                "slowest": min(rates),
                "fastest": max(rates),
                "checkpoints in memory": max(peaks),
            }
        )
    return rows


def _write_zoo(folder: Path, path: Path, names: list[str], count: int) -> None:
    """Write the list of a zoo whose checkpoints are all the file `path`."""
    entry = {**file_entry(path), "seed": 0, "held_out": False}
    checkpoints = [{**entry, "step": step} for step in range(count)]
    write_sealed(folder / "checkpoints.json", {"checkpoints": checkpoints, "tensors": names})


class AnonymousMemory:
    """Measure the peak growth of this process's anonymous memory inside a `with` block, by polling."""

    def __enter__(self) -> "AnonymousMemory":
        self.peak, self._before, self._done = 0, _anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, _anonymous_bytes() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
