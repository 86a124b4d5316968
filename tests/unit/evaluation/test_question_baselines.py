"""Baselines for tasks whose features are those of their questions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rpg.config.loading import load_params
from rpg.evaluation.question_baselines import QuestionBaselines, formulas_of
from rpg.paths import paths_of
from rpg.tasks.loading import load_task, text_task
from rpg.tokenizer.store import TokenStore


@pytest.fixture
def store(asked: Path, monkeypatch: pytest.MonkeyPatch) -> TokenStore:
    monkeypatch.chdir(asked)
    return TokenStore(paths_of(load_params(), "asked").folder("tokens"))


@pytest.fixture
def means(store: TokenStore) -> dict[str, Tensor]:
    """The mean features [3] of each seen task, drawn at random, in different units."""
    draw = torch.Generator().manual_seed(0)
    units = torch.tensor([1.0, 100.0, 0.01])
    return {one.code or "": 5 + torch.randn(3, generator=draw) * units for one in store.checkpoints}


def test_places_have_mean_zero_and_deviation_one(store: TokenStore, means: dict[str, Tensor]) -> None:
    baselines = QuestionBaselines(store, means)
    places = torch.stack([baselines.place(of) for of in means.values()])
    torch.testing.assert_close(places.mean(0), torch.zeros(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(places.std(0, correction=0), torch.ones(3).double(), atol=1e-4, rtol=0)


def test_the_nearest_task_and_the_mean_of_the_two_nearest(store: TokenStore, means: dict[str, Tensor]) -> None:
    baselines = QuestionBaselines(store, means)
    tokens = [store[index].nan_to_num(0.0) for index in range(len(store))]
    for index, checkpoint in enumerate(store.checkpoints):
        assert torch.equal(baselines.nearest(0, means[checkpoint.code or ""]), tokens[index])
    asked = torch.tensor([5.2, 40.0, 5.0])
    stacked = torch.stack([*means.values()]).double()
    away = ((stacked - asked) / stacked.std(0, correction=0)).square().sum(1)
    first, second = away.argsort()[:2].tolist()
    assert torch.equal(baselines.nearest(0, asked), tokens[first])
    torch.testing.assert_close(baselines.soup(0, asked, 2), (tokens[first] + tokens[second]) / 2)
    every = torch.stack(tokens).mean(0)
    torch.testing.assert_close(baselines.soup(0, asked, len(means)), every)
    torch.testing.assert_close(baselines.mean(0), every)


def test_ridge_is_the_closed_formula(
    store: TokenStore, means: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """(XᵀX + αI)⁻¹ XᵀY on standardized features and centred data, for the one penalty that it may choose."""
    monkeypatch.setattr("rpg.evaluation.baselines.PENALTIES", np.array([0.7]))
    baselines = QuestionBaselines(store, means)
    asked = torch.tensor([5.2, 40.0, 5.0])
    X = torch.stack([baselines.place(means[one.code or ""]) for one in store.checkpoints])
    Y = torch.stack([store[index] for index in range(len(store))]).nan_to_num(0.0).flatten(1).double()
    W = torch.linalg.solve(X.T @ X + 0.7 * torch.eye(3).double(), X.T @ (Y - Y.mean(0)))
    expected = Y.mean(0) + baselines.place(asked) @ W
    found = baselines.ridge(0, asked).flatten().double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_formulas_know_tasks_by_the_mean_of_their_training_questions(store: TokenStore) -> None:
    experiment = load_params().experiment("asked")
    task = text_task(load_task(experiment.task, None))
    found = formulas_of(experiment, task, store)
    assert {*found} == {"nearest_questions", "ridge_questions", "mean_network"}
    condition = experiment.model.text
    assert condition
    codes = [run.code or "" for run in experiment.runs().values()]
    own = {code: task.text_features(condition, task.prompt_texts("train", code)).mean(0) for code in codes}
    baselines = QuestionBaselines(store, own)
    for code in codes:
        assert torch.equal(found["nearest_questions"](0, code), baselines.nearest(0, own[code]))
        assert torch.equal(found["ridge_questions"](0, code), baselines.ridge(0, own[code]))
        assert torch.equal(found["mean_network"](0, code), baselines.mean(0))


def test_bits_have_the_other_formulas(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tasks)
    experiment = load_params().experiment("tasks")
    store = TokenStore(paths_of(load_params(), "tasks").folder("tokens"))
    found = formulas_of(experiment, load_task(experiment.task, None), store)
    assert {*found} == {"nearest_task", "ridge", "ridge_pairs", "mean_network"}
