"""Measure speed and memory of tokenizing and detokenizing a large network: `python -m benchmarks tokens`."""

import ctypes
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.common import ratio, report
from rpg.config.experiment import Tokens
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize, tokenize_rows
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.tokenizer.tokens import BLOCK, write_rows, write_tokens
from rpg.utils.files import file_entry, read_tensors, write_sealed, write_tensors


def measure_tokens(
    names: list[str], width: int, checkpoints: int, threads: int, rounds: int, out: Path
) -> list[dict[str, Any]]:
    """Print and write, for each step, the GB/s of weights and the peak memory in GB.

    One step writes the token store of a zoo with `checkpoints` different files, another copies these files with `cp`
    and then calls `sync`. The two take turns.
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
    names = list(state_dict)
    paths = _write_zoo(folder, state_dict, checkpoints)
    size = sum(tensor.nbytes for tensor in state_dict.values())
    del state_dict
    tokens = folder / "tokens.safetensors"
    tokens.touch()
    write_rows(tokens, layout, stats, [read_checkpoint(paths[0], names)], 1)
    block_RD = torch.empty(max(1, BLOCK // (4 * width)), width)

    def tokenize_blocks(state_dict: dict[str, Tensor]) -> None:
        for start in range(0, layout.length, len(block_RD)):
            tokenize_rows(state_dict, layout, stats, start, block_RD[: layout.length - start])

    # As in the stages: from the file to tokens in memory, and from the store on disk to a state dict.
    steps: dict[str, Callable[[], Any]] = {
        "statistics": lambda: Stats.of(layout, [read_checkpoint(paths[0], names)]),
        "tokenize": lambda: tokenize_blocks(read_checkpoint(paths[0], names)),
        "detokenize": lambda: detokenize(read_tensors(tokens)["tokens"][0], layout, stats, skipped),
    }
    rows = [_row(name, step, size, *_measured(function, rounds)) for step, function in steps.items()]
    tokens.unlink()
    rows += _stores(name, size, width, paths, rounds, folder)
    # A training's read of one checkpoint from an open store.
    store = TokenStore(folder / "store")
    # Warm up: opening the store reads all of it for its hash, and training reads each checkpoint many times.
    for _ in range(3):
        torch.stack([store[0]])
    return [*rows, _row(name, "load", size, *_measured(lambda: torch.stack([store[0]]), rounds))]


def _measured(function: Callable[[], Any], rounds: int) -> tuple[list[float], int]:
    """Return the seconds of each round, and the peak bytes of anonymous memory."""
    with AnonymousMemory() as memory:
        function()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return seconds, memory.peak


def _stores(name: str, size: int, width: int, paths: list[Path], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the store and of `cp` and `sync`.

    Both read the same files from the page cache if they fit there. Each round, the disk has first stored all that was
    written before.
    """
    copies, store = folder / "copies", folder / "store"
    seconds: dict[Path, list[float]] = {copies: [], store: []}
    peaks = []
    for count in range(rounds + 1):
        for target in (copies, store):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            subprocess.run(["sync"], check=True)
            with AnonymousMemory() as memory:
                started = time.perf_counter()
                if target == copies:
                    subprocess.run(["cp", *paths, copies], check=True)
                    subprocess.run(["sync"], check=True)
                else:
                    write_tokens(folder, Tokens(width=width), store)
                # The first round warms up.
                if count:
                    seconds[target].append(time.perf_counter() - started)
            if target == store:
                peaks.append(memory.peak)
        shutil.rmtree(copies)
    together = len(paths) * size
    return [
        _row(name, f"cp of {len(paths)} and sync", together, seconds[copies]),
        {
            **_row(name, f"store of {len(paths)}", together, seconds[store], max(peaks)),
            "times of cp": ratio(seconds[store], seconds[copies])["ratio"],
        },
    ]


def _row(name: str, step: str, size: int, seconds: list[float], peak: int | None = None) -> dict[str, Any]:
    rates = [size / each / 1e9 for each in seconds]
    return {
        "network": name,
        "step": step,
        "GB": size / 1e9,
        "seconds": statistics.median(seconds),
        "GB/s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "GB of memory": None if peak is None else peak / 1e9,
        "times of cp": None,
    }


def _write_zoo(folder: Path, state_dict: dict[str, Tensor], count: int) -> list[Path]:
    """Write a zoo of `count` networks with the tensors of `state_dict`, each times another factor."""
    checkpoints, paths = [], [folder / f"{step}.safetensors" for step in range(count)]
    for step, path in enumerate(paths):
        with torch.no_grad():
            scaled = {name: tensor * (1 + step / 100) for name, tensor in state_dict.items()}
        write_tensors(path, {name: tensor.to(state_dict[name].dtype) for name, tensor in scaled.items()})
        checkpoints.append({**file_entry(path), "seed": 0, "held_out": False, "step": step})
    write_sealed(folder / "checkpoints.json", {"checkpoints": checkpoints, "tensors": list(state_dict)})
    return paths


class AnonymousMemory:
    """Measure the peak growth of this process's anonymous memory inside a `with` block, by polling."""

    def __enter__(self) -> "AnonymousMemory":
        # Memory that was freed before, but not returned to the kernel, would hide growth.
        ctypes.CDLL(None).malloc_trim(0)
        self.peak, self._before, self._done = 0, _anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, _anonymous_bytes() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
