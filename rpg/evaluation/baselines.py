"""Baselines for networks with task codes: formulas, fitted to the tokens that RPG learned from.

`ridge` and `ridge_pairs` are ridge regressions from the code's bits, without and with the products of all pairs of
bits, to all normalized weights at once. Leave-one-out validation chooses the L2 penalty. With several permutation
states, each feature appears once for all states and once more for each state. `nearest_task` takes the weights of the
seen code that differs in the fewest bits, from the requested state if possible. `mean_network` takes the mean of all
seen weights of the requested state.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from rpg.tokenizer.store import TokenStore
from rpg.utils import task_codes

# Permutation state and task code → tokens [L, D].
Formula = Callable[[int, str], Tensor]
PENALTIES = np.logspace(-3, 4, 15)


def formulas(store: TokenStore) -> dict[str, Formula]:
    """Fit all baselines to `store`; return name → formula."""
    tokens_NLD = torch.stack([store[index] for index in range(len(store))]).nan_to_num(0.0)
    runs = [(store.state(checkpoint), checkpoint.code or "") for checkpoint in store.checkpoints]
    states_N = torch.tensor([state for state, _ in runs])

    def nearest_task(state: int, code: str) -> Tensor:
        return tokens_NLD[
            min(
                range(len(runs)), key=lambda index: (task_codes.distance(runs[index][1], code), runs[index][0] != state)
            )
        ]

    def mean_network(state: int, code: str) -> Tensor:
        return tokens_NLD[states_N == state].mean(0)

    return {
        "nearest_task": nearest_task,
        "ridge": _ridge(tokens_NLD, runs, len(store.seeds), pairs=False),
        "ridge_pairs": _ridge(tokens_NLD, runs, len(store.seeds), pairs=True),
        "mean_network": mean_network,
    }


def features(state: int, code: str, states: int, pairs: bool) -> list[float]:
    """Return the features of a ridge regression: bits as ±1, their products, and both once more per state."""
    bits = [2 * bit - 1 for bit in task_codes.bits(code)]
    of_code = bits + ([one * other for one, other in combinations(bits, 2)] if pairs else [])
    if states == 1:
        return of_code
    # Each state has a constant and its interactions with the code.
    return of_code + [value * (state == each) for each in range(states) for value in [1.0, *of_code]]


def _ridge(tokens_NLD: Tensor, runs: list[tuple[int, str]], states: int, pairs: bool) -> Formula:
    from sklearn.linear_model import RidgeCV

    inputs = np.array([features(state, code, states, pairs) for state, code in runs])
    model = RidgeCV(alphas=PENALTIES).fit(inputs, tokens_NLD.flatten(1).double().numpy())

    def formula(state: int, code: str) -> Tensor:
        weights = model.predict(np.array([features(state, code, states, pairs)]))
        return torch.from_numpy(weights).float().view(tokens_NLD.shape[1:])

    return formula
