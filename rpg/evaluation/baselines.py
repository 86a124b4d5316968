"""Baselines for networks with task codes: formulas, fitted to the tokens that RPG learned from.

`ridge` and `ridge_pairs` are ridge regressions from the code's bits, without and with the products of all pairs of
bits, to all normalized weights at once. Leave-one-out validation chooses the L2 penalty. With several permutation
states, each feature appears once for all states and once more for each state. `nearest_task` takes the weights of the
seen code that differs in the fewest bits, from the requested state if possible. `mean_network` takes the mean of all
seen weights of the requested state. `rpg.evaluation.question_baselines` has the baselines of tasks without bits.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from rpg.tokenizer.store import TokenStore
from rpg.utils import task_codes

# Permutation state and task code → tokens [L, D].
Formula = Callable[[int, str], Tensor]
# The features of a ridge regression → tokens [L, D].
Prediction = Callable[[Sequence[float]], Tensor]
PENALTIES = np.logspace(-3, 4, 15)


def seen_tokens(store: TokenStore) -> tuple[Tensor, list[tuple[int, str]]]:
    """Return the tokens [N, L, D] that RPG learned from, and the permutation state and task code of each."""
    tokens_NLD = torch.stack([store[index] for index in range(len(store))]).nan_to_num(0.0)
    return tokens_NLD, [(store.state(checkpoint), checkpoint.code or "") for checkpoint in store.checkpoints]


def mean_of_state(tokens_NLD: Tensor, runs: Sequence[tuple[int, str]], state: int) -> Tensor:
    """Return the mean tokens [L, D] of a state."""
    return tokens_NLD[torch.tensor([own for own, _ in runs]) == state].mean(0)


def formulas(store: TokenStore) -> dict[str, Formula]:
    """Fit all baselines to `store`; return name → formula."""
    tokens_NLD, runs = seen_tokens(store)

    def nearest_task(state: int, code: str) -> Tensor:
        return tokens_NLD[
            min(
                range(len(runs)),
                key=lambda index: (task_codes.distance(runs[index][1], code), runs[index][0] != state),
            )
        ]

    def ridge(pairs: bool) -> Formula:
        states = len(store.seeds)
        predict = fit_ridge([features(state, code, states, pairs) for state, code in runs], tokens_NLD)
        return lambda state, code: predict(features(state, code, states, pairs))

    return {
        "nearest_task": nearest_task,
        "ridge": ridge(pairs=False),
        "ridge_pairs": ridge(pairs=True),
        "mean_network": lambda state, _: mean_of_state(tokens_NLD, runs, state),
    }


def features(state: int, code: str, states: int, pairs: bool) -> list[float]:
    """Return the features of a ridge regression: bits as ±1, their products, and both once more per state."""
    bits = [2 * bit - 1 for bit in task_codes.bits(code)]
    return with_states(bits + ([one * other for one, other in combinations(bits, 2)] if pairs else []), state, states)


def with_states(of_code: list[float], state: int, states: int) -> list[float]:
    """Return the features of a task; with several states, each has a constant and its interactions with them, too."""
    if states == 1:
        return of_code
    return of_code + [value * (state == each) for each in range(states) for value in [1.0, *of_code]]


def fit_ridge(rows: Sequence[Sequence[float]], tokens_NLD: Tensor) -> Prediction:
    """Fit a ridge regression from `rows` of features to tokens [N, L, D]."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=PENALTIES).fit(np.array(rows), tokens_NLD.flatten(1).double().numpy())

    def predict(row: Sequence[float]) -> Tensor:
        return torch.from_numpy(model.predict(np.array([row]))).float().view(tokens_NLD.shape[1:])

    return predict
