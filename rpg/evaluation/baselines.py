"""Baselines for networks with task codes: formulas, fitted to the tokens that RPG learned from.

`ridge` and `ridge_pairs` are ridge regressions from the code's bits, without and with the products of all pairs of
bits, to all normalized weights at once. Leave-one-out validation chooses the L2 penalty. With several permutation
states, each feature appears once for all states and once more for each state. `nearest_task` takes the weights of the
seen code that differs in the fewest bits, from the requested state if possible. `mean_network` takes the mean of all
seen weights of the requested state. A task without bits has the mean features of its questions in their place.
"""

from collections.abc import Callable, Collection, Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.tasks.base import Task
from rpg.tasks.loading import text_task
from rpg.tokenizer.store import TokenStore
from rpg.utils import task_codes
from rpg.utils.statistics import divisor

# Permutation state and task code → tokens [L, D].
Formula = Callable[[int, str], Tensor]
PENALTIES = np.logspace(-3, 4, 15)


def formulas(
    store: TokenStore, embedded: Mapping[str, Tensor] | None = None, only: str | None = None
) -> dict[str, Formula]:
    """Fit all baselines to `store`, or one; return name → formula.

    `embedded` are the features [F] of the tasks, for tasks without bits.
    """
    tokens_NLD = torch.stack([store[index] for index in range(len(store))]).nan_to_num(0.0)
    runs = [(store.state(checkpoint), checkpoint.code or "") for checkpoint in store.checkpoints]
    states_N = torch.tensor([state for state, _ in runs])

    def distance(code: str, other: str) -> float:
        if embedded is None:
            return task_codes.distance(code, other)
        return float(torch.dist(embedded[code], embedded[other]))

    def nearest_task(state: int, code: str) -> Tensor:
        return tokens_NLD[
            min(range(len(runs)), key=lambda index: (distance(runs[index][1], code), runs[index][0] != state))
        ]

    def mean_network(state: int, code: str) -> Tensor:
        return tokens_NLD[states_N == state].mean(0)

    if embedded is not None:
        if only == "nearest_questions":
            return {only: nearest_task}
        ridge = _ridge(tokens_NLD, runs, len(store.seeds), embedded=embedded)
        return {"nearest_questions": nearest_task, "ridge_questions": ridge, "mean_network": mean_network}
    return {
        "nearest_task": nearest_task,
        "ridge": _ridge(tokens_NLD, runs, len(store.seeds), pairs=False),
        "ridge_pairs": _ridge(tokens_NLD, runs, len(store.seeds), pairs=True),
        "mean_network": mean_network,
    }


def embedded_tasks(experiment: Experiment, task: Task) -> dict[str, Tensor] | None:
    """Return the mean features [F] of each task's training questions; None for tasks with bits."""
    condition = experiment.model.text
    if condition is None:
        return None
    asking = text_task(task)
    held_out = {run.code or "": run.held_out for run in experiment.runs().values()}
    means = {code: asking.text_features(condition, asking.prompt_texts("train", code)).mean(0) for code in held_out}
    return standardized(means, [code for code, out in held_out.items() if not out])


def standardized(means: Mapping[str, Tensor], seen: Collection[str]) -> dict[str, Tensor]:
    """Return the features [F] of each task in units of the seen tasks' deviation from their mean."""
    std_F, mean_F = torch.std_mean(torch.stack([means[code] for code in seen]).double(), dim=0, correction=0)
    return {code: (of.double() - mean_F) / divisor(std_F, mean_F) for code, of in means.items()}


def features(
    state: int, code: str, states: int, pairs: bool, embedded: Mapping[str, Tensor] | None = None
) -> list[float]:
    """Return the features of a ridge regression: bits as ±1, their products, and both once more per state."""
    bits = [2 * bit - 1 for bit in task_codes.bits(code)] if embedded is None else embedded[code].tolist()
    of_code = bits + ([one * other for one, other in combinations(bits, 2)] if pairs else [])
    if states == 1:
        return of_code
    # Each state has a constant and its interactions with the code.
    return of_code + [value * (state == each) for each in range(states) for value in [1.0, *of_code]]


def _ridge(
    tokens_NLD: Tensor,
    runs: list[tuple[int, str]],
    states: int,
    pairs: bool = False,
    embedded: Mapping[str, Tensor] | None = None,
) -> Formula:
    from sklearn.linear_model import RidgeCV

    inputs = np.array([features(state, code, states, pairs, embedded) for state, code in runs])
    model = RidgeCV(alphas=PENALTIES).fit(inputs, tokens_NLD.flatten(1).double().numpy())

    def formula(state: int, code: str) -> Tensor:
        weights = model.predict(np.array([features(state, code, states, pairs, embedded)]))
        return torch.from_numpy(weights).float().view(tokens_NLD.shape[1:])

    return formula
