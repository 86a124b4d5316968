"""Memory of training at a shape of the paper's, beside the published procedure's: `python -m benchmarks memory`.

Each takes two steps in a process of its own. What counts is what it has in use at most: on a GPU what torch has
allocated, on a CPU the process's memory without files, since before the network was made.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report
from benchmarks.shapes import SHAPES, PublishedSteps, Zoo, experiment_of, our_training, shrunk
from benchmarks.tokens import Anonymous
from rpg.device import device
from rpg.seeds import fix_arithmetic

WAYS = ("published", "paper", "residual")


def compare_memory(shape: str, fraction: int, threads: int, out: Path) -> list[dict[str, Any]]:
    """Print and write GB of each."""
    found = {}
    for way in WAYS:
        code = f"from benchmarks.memory import measure; measure({way!r}, {shape!r}, {fraction}, {threads})"
        command = [sys.executable, "-c", code]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = [
        {
            "training": way if way == "published" else f"ours, {way}",
            "GB": bytes_used / 1e9,
            "share of the published": bytes_used / found["published"],
        }
        for way, bytes_used in found.items()
    ]
    return report(rows, out, shape=vars(shrunk(SHAPES[shape], fraction)))


def measure(way: str, shape: str, fraction: int, threads: int) -> None:
    """Print the bytes that two steps take."""
    fix_arithmetic(threads)
    chosen = shrunk(SHAPES[shape], fraction)
    zoo = Zoo(chosen)

    def steps() -> None:
        training = PublishedSteps(chosen, zoo) if way == "published" else our_training(experiment_of(chosen, way), zoo)
        for _ in range(2):
            training.one_step()

    if device().type == "cuda":
        steps()
        print(torch.cuda.max_memory_allocated())
        return
    with Anonymous() as memory:
        steps()
    print(memory.peak)
