"""Baselines for tasks without bits: their features are those of their questions.

`nearest_questions` takes the weights of the seen task whose questions are nearest, from the requested state if
possible. `ridge_questions` is a ridge regression from the features to all normalized weights, as in
`rpg.evaluation.baselines`. `soup` takes the mean of the nearest tasks' weights. Features are in units of the seen
tasks' deviation from their mean.

N checkpoints, L tokens of width D, F features.
"""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.evaluation.baselines import Formula, Prediction, fit_ridge, formulas, mean_of_state, seen_tokens, with_states
from rpg.tasks.base import Task
from rpg.tasks.loading import text_task
from rpg.tokenizer.store import TokenStore
from rpg.utils.statistics import divisor


class QuestionBaselines:
    """Baselines of the checkpoints in `store`, for questions.

    `means` are the mean features [F] of each seen task's training questions.
    """

    def __init__(self, store: TokenStore, means: Mapping[str, Tensor]) -> None:
        self.tokens_NLD, self.runs = seen_tokens(store)
        self.states = len(store.seeds)
        stacked = torch.stack([means[code] for code in dict.fromkeys(code for _, code in self.runs)]).double()
        std_F, self._mean_F = torch.std_mean(stacked, dim=0, correction=0)
        self._unit_F = divisor(std_F, self._mean_F)
        self._places_NF = torch.stack([self.place(means[code]) for _, code in self.runs])

    def place(self, mean_F: Tensor) -> Tensor:
        """Return the standardized mean features [F] of some questions."""
        return (mean_F.double() - self._mean_F) / self._unit_F

    def _order(self, state: int, mean_F: Tensor) -> list[int]:
        """Return the checkpoints' indices, the nearest first; of equally near ones, that of the requested state."""
        distances = torch.linalg.vector_norm(self._places_NF - self.place(mean_F), dim=1).tolist()
        return sorted(range(len(self.runs)), key=lambda index: (distances[index], self.runs[index][0] != state))

    def nearest(self, state: int, mean_F: Tensor) -> Tensor:
        """Return the tokens [L, D] of the nearest task."""
        return self.tokens_NLD[self._order(state, mean_F)[0]]

    def soup(self, state: int, mean_F: Tensor, count: int) -> Tensor:
        """Return the mean tokens [L, D] of the `count` nearest tasks, of all their checkpoints in the state."""
        codes = [*dict.fromkeys(self.runs[index][1] for index in self._order(state, mean_F))][:count]
        chosen = [index for index, run in enumerate(self.runs) if run[0] == state and run[1] in codes]
        return self.tokens_NLD[chosen].mean(0)

    @cached_property
    def _ridge(self) -> Prediction:
        places = zip(self._places_NF, self.runs, strict=True)
        return fit_ridge([self._row(state, place_F) for place_F, (state, _) in places], self.tokens_NLD)

    def _row(self, state: int, place_F: Tensor) -> list[float]:
        return with_states(place_F.tolist(), state, self.states)

    def ridge(self, state: int, mean_F: Tensor) -> Tensor:
        """Return the tokens [L, D] of the ridge regression."""
        return self._ridge(self._row(state, self.place(mean_F)))

    def mean(self, state: int) -> Tensor:
        """Return the mean tokens [L, D] of a state."""
        return mean_of_state(self.tokens_NLD, self.runs, state)


def formulas_of(experiment: Experiment, task: Task, store: TokenStore) -> dict[str, Formula]:
    """Fit the baselines of an experiment with task codes to `store`; return name → formula.

    The features of a task without bits are those of all its training questions.
    """
    condition = experiment.model.text
    if condition is None:
        return formulas(store)
    asking = text_task(task)
    codes = [*experiment.codes(held_out=False), *experiment.codes(held_out=True)]
    means = {code: asking.text_features(condition, asking.prompt_texts("train", code)).mean(0) for code in codes}
    baselines = QuestionBaselines(store, means)
    return {
        "nearest_questions": lambda state, code: baselines.nearest(state, means[code]),
        "ridge_questions": lambda state, code: baselines.ridge(state, means[code]),
        "mean_network": lambda state, _: baselines.mean(state),
    }
