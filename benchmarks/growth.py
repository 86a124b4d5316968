"""Measure the growth of cost with the number of tokens L, and with a zoo's seeds: `python -m benchmarks growth`."""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.common import in_turn, report
from benchmarks.shapes import Shape, Zoo, experiment_of, our_model, our_training, states
from benchmarks.zoos import PART, train
from rpg.config.loading import load_params
from rpg.tasks.config import Run
from rpg.tasks.loading import load_task
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, tokenize
from rpg.utils.rng import fix_arithmetic, generator

# Widths as in the experiments on the digits. Longer sequences have tensors of more than 32 MB on a CPU, which glibc
# allocates from the kernel each time. This cost is not part of the method.
WIDTH, RECURRENT, LENGTHS, SEEDS = 512, 256, (128, 256, 512, 1024), (2, 4, 8, 16)


def measure_growth(rounds: int, threads: int, out: Path, plot: Path) -> list[dict[str, Any]]:
    """Print, write and plot the seconds at four sizes, with the fit of a straight line."""
    fix_arithmetic(threads)
    functions: dict[tuple[str, int], Callable[[], Any]] = {}
    for length in LENGTHS:
        functions |= {(what, length): function for what, function in length_functions(length).items()}
    params = load_params().experiment("digits-vit")
    task, zoo = load_task(params.task, None), params.zoo.model_copy(update={"steps": PART, "saves": 1, "save_every": 1})
    for seeds in SEEDS:
        runs = [Run(seed=seed, code=None, held_out=False) for seed in range(seeds)]
        functions["zoo", seeds] = partial(train, task, zoo, runs, params.zoo.together)
    keys = {f"{what} {size}": (what, size) for what, size in functions}
    seconds = in_turn({name: functions[key] for name, key in keys.items()}, rounds)
    frame = pd.DataFrame(
        {"what": what, "size": size, "seconds": statistics.median(seconds[name])} for name, (what, size) in keys.items()
    )
    rows = []
    for what, group in frame.groupby("what", sort=False):
        slope, constant = np.polyfit(group["size"], group["seconds"], 1)
        mismatch = (group["seconds"] - constant - slope * group["size"]) / group["seconds"]
        rows.append(
            {
                "what": what,
                "with": "seeds" if what == "zoo" else "L",
                "sizes": ", ".join(map(str, group["size"])),
                "ms": ", ".join(f"{1000 * value:.1f}" for value in group["seconds"]),
                "ms for one more": 1000 * slope,
                "ms for none": 1000 * constant,
                "R²": np.corrcoef(group["size"], group["seconds"])[0, 1] ** 2,
                "largest mismatch, %": 100 * mismatch.abs().max(),
            }
        )
    draw(frame).savefig(plot, metadata={"Date": None})
    return report(rows, out, threads=threads, seconds=frame.to_dict("records"))


def length_functions(length: int) -> dict[str, Callable[[], Any]]:
    """Return functions that take a training step, sample one network and tokenize one, with L tokens."""
    shape = Shape("imagenet-vit_tiny", length, WIDTH, RECURRENT, 4, length // 2, ())
    zoo, experiment = Zoo(shape), experiment_of(shape, "residual")
    training = our_training(experiment, zoo)
    model = our_model(experiment, zoo).eval()
    state_dict = {f"{index}.weight": torch.randn(WIDTH, 64) for index in range(length // 64)}
    layout = Layout.of(state_dict, WIDTH)
    stats = Stats.of(layout, [state_dict])

    def sample() -> None:
        chosen, draws = experiment.sample, [generator(0, "benchmarks", "growth")]
        model.sample(states(zoo, experiment, 1), solver=chosen.solver, steps=chosen.steps, generators=draws)

    return {
        "training step": training.one_step,
        "sampling": sample,
        "tokenizing": lambda: tokenize(state_dict, layout, stats),
    }


def draw(frame: pd.DataFrame) -> Figure:
    """Plot milliseconds over size, with the fitted straight line."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    kinds = list(frame.groupby("what", sort=False))
    for axes, (what, group) in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        ends = np.array([0, group["size"].max()])
        axes.plot(ends, 1000 * np.polyval(np.polyfit(group["size"], group["seconds"], 1), ends), color="0.7")
        axes.plot(group["size"], 1000 * group["seconds"], "o")
        axes.set(title=what, xlabel="seeds" if what == "zoo" else "L, tokens", ylabel="ms", xlim=0, ylim=0)
        axes.grid(alpha=0.3)
    return figure
