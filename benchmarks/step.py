"""Compare one training step at a shape from the paper with the published step: `python -m benchmarks step`."""

import statistics
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import in_turn, ratio, report, synchronized_time
from benchmarks.shapes import OURS, SHAPES, PublishedSteps, Zoo, experiment_of, our_training, shrunk
from rpg.utils.device import device, has_bfloat16
from rpg.utils.rng import fix_arithmetic


def compare_steps(shape: str, fraction: int, rounds: int, threads: int, out: Path) -> list[dict[str, Any]]:
    """Print and write milliseconds of a step and the share of the peak, for our networks and the published one."""
    fix_arithmetic(threads)
    chosen = shrunk(SHAPES[shape], fraction)
    zoo = Zoo(chosen)
    trainings: dict[str, Any] = {"published": PublishedSteps(chosen, zoo)}
    for way, name in OURS.items():
        trainings[name] = our_training(experiment_of(chosen, way), zoo)
    flops = {}
    for name, training in trainings.items():
        # Disable compilation, because the counter does not see compiled operations.
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
    """Return the operations per second of the best of several large matrix products.

    The products are in bfloat16 if the device has units for it, else in float32.
    """
    on = device()
    width = 8192 if on.type == "cuda" else 2048
    # Random numbers, because a GPU is faster with equal numbers.
    a, b = torch.randn(2, width, width, device=on).to(torch.bfloat16 if has_bfloat16(on) else torch.float32)
    taken = []
    for _ in range(10):
        started = synchronized_time()
        _ = a @ b
        taken.append(synchronized_time() - started)
    return 2 * width**3 / min(taken)
