"""Compare the memory of training at a shape from the paper with the published training: `python -m benchmarks memory`.

Each training takes two steps in its own process. The result is the peak of torch's allocations. On a CPU the result
also has the growth of the process's anonymous memory since before the network was built. It includes memory that
libraries keep, so it varies between runs.
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
from benchmarks.tokens import AnonymousMemory
from rpg.utils.device import device
from rpg.utils.rng import fix_arithmetic

WAYS = ("published", *OURS)


def compare_memory(shape: str, fraction: int, threads: int, out: Path) -> list[dict[str, Any]]:
    """Print and write the GB of each training."""
    peaks = {}
    for way in WAYS:
        code = f"from benchmarks.memory import measure; measure({way!r}, {shape!r}, {fraction}, {threads})"
        command = [sys.executable, "-c", code]
        peaks[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = [
        {
            "training": OURS.get(way, way),
            "GB": of_torch / 1e9,
            "share of the published": of_torch / peaks["published"][0],
            **({"GB of the process": of_process / 1e9} if of_process else {}),
        }
        for way, (of_torch, of_process) in peaks.items()
    ]
    return report(rows, out, shape=vars(shrunk(SHAPES[shape], fraction)))


def measure(way: str, shape: str, fraction: int, threads: int) -> None:
    """Print the peak bytes of torch's allocations in two steps and, on a CPU, of the process."""
    fix_arithmetic(threads)
    chosen = shrunk(SHAPES[shape], fraction)
    zoo = Zoo(chosen)
    tracker = MemTracker()

    def steps() -> None:
        training = PublishedSteps(chosen, zoo) if way == "published" else our_training(experiment_of(chosen, way), zoo)
        for _ in range(2):
            training.one_step()
            # MemTracker needs a reset before a module runs again.
            tracker.reset_mod_stats()

    if device().type == "cuda":
        steps()
        print(json.dumps([torch.cuda.max_memory_allocated(), None]))
        return
    with AnonymousMemory() as memory, tracker:
        steps()
    print(json.dumps([tracker.get_tracker_snapshot("peak")[device()]["Total"], memory.peak]))
