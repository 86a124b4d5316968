"""Memory of training at a shape of the paper's, beside the published procedure's: `python -m benchmarks memory`.

Each takes two steps in a process of its own. What counts is what torch has allocated at most. On a CPU the process's
memory without files stands beside it, from before the network was made: torch's, and what libraries keep for
themselves, which differs from run to run.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from benchmarks.common import report
from benchmarks.shapes import OURS, SHAPES, PublishedSteps, Zoo, experiment_of, our_training, shrunk
from benchmarks.tokens import Anonymous
from rpg.utils.device import device
from rpg.utils.rng import fix_arithmetic

WAYS = ("published", *OURS)


def compare_memory(shape: str, fraction: int, threads: int, out: Path) -> list[dict[str, Any]]:
    """Print and write GB of each."""
    found = {}
    for way in WAYS:
        code = f"from benchmarks.memory import measure; measure({way!r}, {shape!r}, {fraction}, {threads})"
        command = [sys.executable, "-c", code]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = [
        {
            "training": OURS.get(way, way),
            "GB": of_torch / 1e9,
            "share of the published": of_torch / found["published"][0],
            **({"GB of the process": of_process / 1e9} if of_process else {}),
        }
        for way, (of_torch, of_process) in found.items()
    ]
    return report(rows, out, shape=vars(shrunk(SHAPES[shape], fraction)))


def measure(way: str, shape: str, fraction: int, threads: int) -> None:
    """Print the bytes that torch has allocated at most in two steps, and, on a CPU, those of the process."""
    fix_arithmetic(threads)
    chosen = shrunk(SHAPES[shape], fraction)
    zoo = Zoo(chosen)
    tracker = MemTracker()

    def steps() -> None:
        training = PublishedSteps(chosen, zoo) if way == "published" else our_training(experiment_of(chosen, way), zoo)
        for _ in range(2):
            training.one_step()
            # It wants to be told that a module is called again.
            tracker.reset_mod_stats()

    if device().type == "cuda":
        steps()
        print(json.dumps([torch.cuda.max_memory_allocated(), None]))
        return
    with Anonymous() as memory, tracker:
        steps()
    print(json.dumps([tracker.get_tracker_snapshot("peak")[device()]["Total"], memory.peak]))
