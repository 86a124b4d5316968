"""How cost grows with L, the number of tokens, and a zoo's with its seeds: `python -m benchmarks growth`."""

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

# Tokens of width WIDTH and recurrent channels, about as wide as the experiments on the digits. Longer ones have tensors
# of more than 32 MB on a CPU, which glibc gets from the kernel anew each time: that is no matter of the method.
WIDTH, RECURRENT, LENGTHS, SEEDS = 512, 256, (128, 256, 512, 1024), (2, 4, 8, 16)


def measure_growth(rounds: int, threads: int, out: Path, plot: Path) -> list[dict[str, Any]]:
    """Print and write seconds at four sizes, and how straight a line they lie on; draw them."""
    fix_arithmetic(threads)
    ways: dict[tuple[str, int], Callable[[], Any]] = {}
    for length in LENGTHS:
        ways |= {(what, length): way for what, way in of_length(length).items()}
    params = load_params().experiment("digits-vit")
    task, zoo = load_task(params.task, None), params.zoo.model_copy(update={"steps": PART, "saves": 1, "save_every": 1})
    for seeds in SEEDS:
        runs = [Run(seed=seed, code=None, held_out=False) for seed in range(seeds)]
        ways["zoo", seeds] = partial(train, task, zoo, runs, params.zoo.together)
    keys = {f"{what} {size}": (what, size) for what, size in ways}
    seconds = in_turn({name: ways[key] for name, key in keys.items()}, rounds)
    frame = pd.DataFrame(
        {"what": what, "size": size, "seconds": statistics.median(seconds[name])} for name, (what, size) in keys.items()
    )
    rows = []
    for what, group in frame.groupby("what", sort=False):
        slope, constant = np.polyfit(group["size"], group["seconds"], 1)
        misfit = (group["seconds"] - constant - slope * group["size"]) / group["seconds"]
        rows.append(
            {
                "what": what,
                "with": "seeds" if what == "zoo" else "L",
                "sizes": ", ".join(map(str, group["size"])),
                "ms": ", ".join(f"{1000 * value:.1f}" for value in group["seconds"]),
                "ms for one more": 1000 * slope,
                "ms for none": 1000 * constant,
                "R²": np.corrcoef(group["size"], group["seconds"])[0, 1] ** 2,
                "largest misfit, %": 100 * misfit.abs().max(),
            }
        )
    draw(frame).savefig(plot, metadata={"Date": None})
    return report(rows, out, threads=threads, seconds=frame.to_dict("records"))


def of_length(length: int) -> dict[str, Callable[[], Any]]:
    """A training step, sampling of one network and tokenizing, with L tokens."""
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
    """Milliseconds over size, and the straight line nearest to them."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    kinds = list(frame.groupby("what", sort=False))
    for axes, (what, group) in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        ends = np.array([0, group["size"].max()])
        axes.plot(ends, 1000 * np.polyval(np.polyfit(group["size"], group["seconds"], 1), ends), color="0.7")
        axes.plot(group["size"], 1000 * group["seconds"], "o")
        axes.set(title=what, xlabel="seeds" if what == "zoo" else "L, tokens", ylabel="ms", xlim=0, ylim=0)
        axes.grid(alpha=0.3)
    return figure
