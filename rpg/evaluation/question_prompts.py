"""Measure adapters for questions beside rivals that see the same questions: `rpg prompts --experiment facts-prompts`.

Writes prompts.csv, a row for each method and draw of questions, prompts.md, the table, and prompts.json with the
seconds of each method for one draw. The questions are training questions of held-out tasks, without their answers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.config.prompts import TextPromptEvaluation
from rpg.evaluation.prompt_table import PromptTrial
from rpg.evaluation.prompts import generators, write_measured
from rpg.evaluation.question_baselines import QuestionBaselines
from rpg.evaluation.question_table import question_table
from rpg.generator.sample import sample_networks
from rpg.model.rpg import RPG
from rpg.model.set_encoder import support_values
from rpg.paths import Paths
from rpg.tasks.base import TextTask
from rpg.tasks.loading import load_task, text_task
from rpg.tasks.stack import StateDict, unstack
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.utils.files import read_tensors
from rpg.utils.progress import progress
from rpg.utils.rng import generator

# Draws that a method's seconds are measured on, one by one.
TIMED = 5
# Batches in a step of the adapter for all tasks. On the validation split of facts-prompts one batch, at the zoo's
# learning rate, needs twice the time and is three points worse.
BATCHES = 4


@dataclass(frozen=True)
class Draw:
    """Questions of a held-out task: their indices among the training questions, and their features [n, F]."""

    code: str
    number: int
    picks: tuple[int, ...]
    features: Tensor


# What makes an adapter for each draw.
Adapters = Callable[[Sequence[Draw]], list[StateDict]]


class QuestionRivals:
    """RPG and its rivals for questions of held-out tasks."""

    def __init__(self, experiment: Experiment, paths: Paths, task: TextTask) -> None:
        condition = experiment.model.text
        assert isinstance(experiment.prompts, TextPromptEvaluation)
        assert condition
        self.experiment, self.paths, self.params = experiment, paths, experiment.prompts
        self.task, self.condition = task, condition
        self.store = TokenStore(paths.folder("tokens"))
        self.seen = [*dict.fromkeys(one.code or "" for one in self.store.checkpoints)]
        self.codes = [*dict.fromkeys(one.code or "" for one in self.store.held_out)]

    @cached_property
    def features(self) -> dict[str, Tensor]:
        """Task → features [n, F] of its training questions."""
        return {
            code: self.task.text_features(self.condition, self.task.prompt_texts("train", code))
            for code in (*self.seen, *self.codes)
        }

    def draws(self, count: int) -> list[Draw]:
        """Return `prompts` draws of `count` questions of each held-out task, or of all if the task has fewer."""
        drawn = []
        for code, number in product(self.codes, range(self.params.prompts)):
            draw = generator(self.params.seed, "questions", code, number, count)
            picks = torch.randperm(len(self.features[code]), generator=draw)[:count]
            drawn.append(Draw(code, number, tuple(picks.tolist()), self.features[code][picks]))
        return drawn

    def read(self, draw: Draw) -> Draw:
        """Return the draw with its features computed anew, as they are for a caller's questions."""
        texts = self.task.prompt_texts("train", draw.code)
        features = self.task.text_features(self.condition, [texts[pick] for pick in draw.picks])
        return replace(draw, features=features)

    def generated(self, model: RPG, table: ConditionTable, steps: int, draws: Sequence[Draw]) -> list[StateDict]:
        """Return an adapter of a generator for each draw."""
        sample = self.experiment.sample.model_copy(update={"steps": steps, "seed": self.params.seed})
        values = support_values([[draw.features] for draw in draws])
        requests = [((0,), None)] * len(draws)
        return [one for one, *_ in sample_networks(model, table, self.store, sample, requests, prompts=values)]

    @cached_property
    def baselines(self) -> QuestionBaselines:
        return QuestionBaselines(self.store, {code: self.features[code].mean(0) for code in self.seen})

    def nearest(self, draws: Sequence[Draw]) -> list[StateDict]:
        """Return the adapter of the seen task whose questions are nearest to each draw."""
        return [self._of_tokens(self.baselines.nearest(0, draw.features.mean(0))) for draw in draws]

    def ridge(self, draws: Sequence[Draw]) -> list[StateDict]:
        """Return the adapter of the ridge regression for the mean features of each draw."""
        return [self._of_tokens(self.baselines.ridge(0, draw.features.mean(0))) for draw in draws]

    def soup(self, draws: Sequence[Draw]) -> list[StateDict]:
        """Return the mean of the adapters of the seen tasks whose questions are nearest to each draw."""
        count = self.params.nearest
        return [self._of_tokens(self.baselines.soup(0, draw.features.mean(0), count)) for draw in draws]

    def _of_tokens(self, tokens_LD: Tensor) -> StateDict:
        return unstack(self.store.detokenize(tokens_LD.unsqueeze(0), torch.tensor([0])))[0]

    def trained(self) -> list[tuple[str, StateDict]]:
        """Return held-out tasks, each with an adapter that the zoo trained for it on all its training questions."""
        folder = self.paths.folder("zoo")
        return [(one.code or "", read_tensors(folder / one.file)) for one in self.store.held_out]

    def mean_adapter(self) -> StateDict:
        """Return the mean of all seen tasks' adapters."""
        return self._of_tokens(self.baselines.mean(0))

    def judged(self, adapters: Sequence[StateDict], codes: Sequence[str]) -> list[float]:
        """Return the score of each adapter on the test questions of its task; nothing is chosen by these scores."""
        return [self.task.score(adapter, "test", code) for adapter, code in zip(adapters, codes, strict=True)]

    def in_context(self, draws: Sequence[Draw]) -> list[float]:
        """Return the scores of the language model alone, with the draw's questions and answers before each question."""
        return [self.task.score_in_context("test", draw.code, draw.picks) for draw in draws]


class QuestionTable:
    """The rows of prompts.csv, and the seconds of each method."""

    def __init__(self, rivals: QuestionRivals) -> None:
        self.rivals = rivals
        self.rows: list[dict[str, Any]] = []
        self.seconds: list[dict[str, Any]] = []

    def add(self, method: str, count: int, codes: Sequence[str], scores: Sequence[float]) -> None:
        """Add the scores of a method for prompts of `count` questions, 0 for a method that sees none."""
        new = self.rivals.params.new
        self.rows += [
            {"questions": count, "method": method, "code": code, "new": code in new, "test": score}
            for code, score in zip(codes, scores, strict=True)
        ]

    def adapters(self, method: str, makes: Adapters, count: int, draws: Sequence[Draw]) -> None:
        """Add a method that makes adapters, and its seconds for one draw."""
        codes = [draw.code for draw in draws]
        self.add(method, count, codes, self.rivals.judged(makes(draws), codes))
        started = time.perf_counter()
        for draw in draws[:TIMED]:
            makes([self.rivals.read(draw)])
        spent = (time.perf_counter() - started) / min(TIMED, len(draws))
        self.seconds.append({"questions": count, "method": method, "seconds": round(spent, 5)})


def measure_questions(rivals: QuestionRivals) -> QuestionTable:
    """Return the table of an experiment with the condition `text`."""
    table, params, experiment = QuestionTable(rivals), rivals.params, rivals.experiment
    codes, trained = zip(*rivals.trained(), strict=True)
    table.add("trained", 0, codes, rivals.judged(trained, codes))
    table.add("mean_network", 0, rivals.codes, rivals.judged([rivals.mean_adapter()] * len(rivals.codes), rivals.codes))
    for method, tasks, batches in (("trained", rivals.codes[:1], 1), ("together", rivals.seen, BATCHES)):
        started = time.perf_counter()
        together = rivals.task.train_together(experiment.zoo, tasks, batches)
        table.seconds.append({"questions": 0, "method": method, "seconds": round(time.perf_counter() - started, 2)})
    table.add("together", 0, rivals.codes, rivals.judged([together] * len(rivals.codes), rivals.codes))
    alone = [Draw(code, 0, (), torch.empty(0)) for code in rivals.codes]
    table.add("alone", 0, rivals.codes, rivals.in_context(alone))
    models = list(generators(experiment, rivals.paths, rivals.store))
    for count in progress(params.questions, "questions", total=len(params.questions)):
        draws = rivals.draws(count)
        for name, model, conditions, steps in models:
            table.adapters(name, partial(rivals.generated, model, conditions, steps), count, draws)
        for name, makes in {
            "ridge_questions": rivals.ridge, "nearest_questions": rivals.nearest, "soup": rivals.soup,
        }.items():  # fmt: skip
            table.adapters(name, makes, count, draws)
        if count in params.examples:
            started = time.perf_counter()
            table.add("in_context", count, [draw.code for draw in draws], rivals.in_context(draws))
            spent = (time.perf_counter() - started) / len(draws)
            table.seconds.append({"questions": count, "method": "in_context", "seconds": round(spent, 5)})
    return table


def evaluate_questions(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Measure RPG and its rivals; write prompts.csv, prompts.md and prompts.json."""
    task = text_task(load_task(experiment.task, data_root))
    table = measure_questions(QuestionRivals(experiment, paths, task))
    write_measured(paths, PromptTrial(pd.DataFrame(table.rows), table.seconds), question_table)
