"""One training step at a shape of the paper's, beside the published step: `python -m benchmarks step`."""

import statistics
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import in_turn, ratio, report, synchronised
from benchmarks.shapes import OURS, SHAPES, PublishedSteps, Zoo, experiment_of, our_training, shrunk
from rpg.utils.device import device, has_bfloat16
from rpg.utils.rng import fix_arithmetic


def compare_steps(shape: str, fraction: int, rounds: int, threads: int, out: Path) -> list[dict[str, Any]]:
    """Print and write milliseconds of a step, our two networks' and the published one's, and share of the peak."""
    fix_arithmetic(threads)
    chosen = shrunk(SHAPES[shape], fraction)
    zoo = Zoo(chosen)
    trainings: dict[str, Any] = {"published": PublishedSteps(chosen, zoo)}
    for way, name in OURS.items():
        trainings[name] = our_training(experiment_of(chosen, way), zoo)
    flops = {}
    for name, training in trainings.items():
        # What is compiled is not counted.
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            training.one_step()
        flops[name] = counter.get_total_flops()
    seconds = in_turn({name: training.one_step for name, training in trainings.items()}, rounds)
    peak = matrix_rate()
    rows = [
        {
            "step": name,
            "ms": 1000 * statistics.median(taken),
            "ms, fastest": 1000 * min(taken),
            "TFLOP": flops[name] / 1e12,
            "% of the matrix rate": 100 * flops[name] / statistics.median(taken) / peak,
            **ratio(seconds["published"], taken),
        }
        for name, taken in seconds.items()
    ]
    return report(rows, out, shape=vars(chosen), threads=threads, matrix_rate=peak)


def matrix_rate() -> float:
    """Operations per second of the best of several products of large matrices in bfloat16, float32 outside."""
    on = device()
    width = 8192 if on.type == "cuda" else 2048
    # Random numbers: a GPU is faster with those that are all the same.
    a, b = torch.randn(2, width, width, device=on).to(torch.bfloat16 if has_bfloat16(on) else torch.float32)
    taken = []
    for _ in range(10):
        started = synchronised()
        _ = a @ b
        taken.append(synchronised() - started)
    return 2 * width**3 / min(taken)
