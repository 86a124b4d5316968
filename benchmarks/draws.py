"""Compare values of `train.draws` or `train.times` by the loss at equal seconds.

The benchmark first measures a step's cost for all values in turn, so other load on the machine affects all alike. Then
each training gets the same time: the time of `steps` steps with the first value. The learning rate falls to zero over
each training. The loss is measured on one fixed set of tokens, times and noise.
"""

import json
import time
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd
import torch

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.paths import paths_of
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import checkpoint_values
from rpg.training.model_file import build, fresh
from rpg.training.train import drawn_tokens, train_loss
from rpg.training.trainer import Training
from rpg.utils.rng import derive, fix_arithmetic, generator

# The number of timed rounds, and the number of tokens for the final loss.
ROUNDS, MEASURED = 60, 4096


def compare_draws(names: list[str], key: str, values: list[int], seeds: list[int], steps: int, out: Path) -> None:
    """Train each experiment with each value of a key of `train` and each seed; print and write the losses.

    The value 0 means null. Each training gets the time of `steps` steps with the first value.
    """
    fix_arithmetic(1)
    params, rows = load_params(), []
    for name in names:
        store = TokenStore(paths_of(params, name).folder("tokens"))
        variants = {value: changed(params.experiment(name), **{key: value or None}) for value in values}
        costs = step_seconds(variants, store)
        for value, seed in product(values, seeds):
            experiment = changed(variants[value], seed=seed, steps=round(steps * costs[values[0]] / costs[value]))
            seconds = experiment.train.steps * costs[value]
            row = {"experiment": name, key: value, "seed": seed, "steps": experiment.train.steps}
            rows.append({**row, "seconds": seconds, "loss": trained_loss(experiment, store)})
            print(rows[-1], flush=True)
    out.write_text(json.dumps(rows, indent=2) + "\n")
    table = pd.DataFrame(rows).groupby(["experiment", key])
    print(table.agg({"steps": "first", "seconds": "first", "loss": ["mean", "min", "max"]}).to_markdown())


def changed(experiment: Experiment, **train: int | None) -> Experiment:
    """Return the experiment with changed values in its train block."""
    return experiment.model_copy(update={"train": experiment.train.model_copy(update=train)})


def step_seconds(variants: dict[int, Experiment], store: TokenStore) -> dict[int, float]:
    """Return the median CPU seconds of a step of each variant, measured in turn."""
    trainings = {count: new_training(experiment, store) for count, experiment in variants.items()}
    seconds: dict[int, list[float]] = {count: [] for count in variants}
    for _ in range(ROUNDS):
        for count, training in trainings.items():
            start = time.process_time()
            training.one_step()
            seconds[count].append(time.process_time() - start)
    return {count: median(taken) for count, taken in seconds.items()}


def new_training(experiment: Experiment, store: TokenStore) -> Training:
    """Return a new training of an experiment."""
    params, on = experiment.train, torch.device("cpu")
    torch.manual_seed(derive(params.seed, "train", "weights"))
    model = fresh(experiment.model, experiment.diffusion, store)
    return Training(params, model, train_loss(store, params, experiment.model.conditions, on), "train", on)


def trained_loss(experiment: Experiment, store: TokenStore) -> float:
    """Train, and return the diffusion loss of the averaged weights.

    Tokens, times and noise of this loss are the same for all trainings.
    """
    training = new_training(experiment, store)
    for _ in range(experiment.train.steps):
        training.one_step()
    tokens_NLD = torch.stack([store[index] for index in range(len(store))])
    picks, t, noise = drawn_tokens(tokens_NLD.shape, MEASURED, None, 1, generator(0, "benchmarks", "draws"))
    model = build(experiment.model, experiment.diffusion, store)
    model.load_state_dict(training.averaged())
    with torch.no_grad():
        prototypes_NLW = model.eval().recurrent(checkpoint_values(experiment.model.conditions, store))
        return model.loss(tokens_NLD.flatten(0, 1)[picks], prototypes_NLW, picks, t, noise).item()
