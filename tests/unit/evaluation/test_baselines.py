import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rpg.config.loading import load_params
from rpg.evaluation.baselines import embedded_tasks, features, formulas
from rpg.paths import paths_of
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore


@pytest.fixture(scope="module")
def store(tasks: Path) -> TokenStore:
    return TokenStore(tasks / "results/tasks/tokens")


def test_features_by_hand() -> None:
    assert features(0, "011", 1, pairs=False) == [-1, 1, 1]
    assert features(0, "011", 1, pairs=True) == [-1, 1, 1, -1, -1, 1]
    assert features(1, "011", 2, pairs=False) == [-1, 1, 1, 0, 0, 0, 0, 1, -1, 1, 1]


def test_ridge_is_the_closed_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: TokenStore) -> None:
    """(XᵀX + αI)⁻¹ XᵀY on centred data, for the one penalty that it may choose."""
    monkeypatch.setattr("rpg.evaluation.baselines.PENALTIES", np.array([0.7]))
    found = formulas(store)["ridge"](1, "0100111010")
    runs = [(store.state(entry), entry.code) for entry in store.checkpoints]
    X = torch.tensor([features(state, code, 2, pairs=False) for state, code in runs], dtype=torch.float64)
    Y = torch.stack([store[index] for index in range(len(store))]).nan_to_num(0).flatten(1).double()
    centred = X - X.mean(0)
    W = torch.linalg.solve(centred.T @ centred + 0.7 * torch.eye(X.shape[1]).double(), centred.T @ (Y - Y.mean(0)))
    asked = torch.tensor(features(1, "0100111010", 2, pairs=False)).double()
    expected = Y.mean(0) + (asked - X.mean(0)) @ W
    torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-4, atol=1e-5)


def test_nearest_task_and_mean_stay_in_the_state(store: TokenStore) -> None:
    found = formulas(store)
    for index, entry in enumerate(store.checkpoints):
        tokens = store[index].nan_to_num(0)
        assert torch.equal(found["nearest_task"](store.state(entry), entry.code), tokens)
    of_state = [store[index] for index, entry in enumerate(store.checkpoints) if store.state(entry) == 1]
    expected = torch.stack(of_state).nan_to_num(0).mean(0)
    torch.testing.assert_close(found["mean_network"](1, "0100111010"), expected)


def test_nothing_held_out_is_fitted(tasks: Path, store: TokenStore) -> None:
    layout = json.loads((tasks / "results/tasks/tokens/layout.json").read_text())
    assert {entry["code"] for entry in layout["held_out"]} >= {"0100111010", "0111100010"}
    assert len(layout["held_out"]) == 2 * 2 + 2
    assert len(store) == 2 * 6 - 2
    held = {(entry["seed"], entry["code"]) for entry in layout["held_out"]}
    assert not held & {(entry["seed"], entry["code"]) for entry in layout["checkpoints"]}


def test_tasks_without_bits_have_the_features_of_their_questions(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(asked)
    experiment = load_params().experiment("asked")
    task = load_task(experiment.task, None)
    embedded = embedded_tasks(experiment, task)
    assert embedded
    seen = torch.stack([embedded[code] for code in experiment.task.seen])
    torch.testing.assert_close(seen.mean(0), torch.zeros(64).double(), atol=1e-9, rtol=0)
    store = TokenStore(paths_of(load_params(), "asked").folder("tokens"))
    found = formulas(store, embedded)
    assert {*found} == {"nearest_questions", "ridge_questions", "mean_network"}
    for index, checkpoint in enumerate(store.checkpoints):
        own = store[index].nan_to_num(0.0)
        assert torch.equal(found["nearest_questions"](0, checkpoint.code or ""), own)
    every = torch.stack([store[index] for index in range(len(store))]).nan_to_num(0.0)
    assert torch.equal(found["mean_network"](0, "speed-faster-truth"), every.mean(0))
    away = {code: float(torch.dist(embedded[code], embedded["home-of-choice"])) for code in experiment.task.seen}
    nearest = min(away, key=away.__getitem__)
    place = [checkpoint.code for checkpoint in store.checkpoints].index(nearest)
    assert torch.equal(found["nearest_questions"](0, "home-of-choice"), store[place].nan_to_num(0.0))
    assert list(formulas(store, embedded, "nearest_questions")) == ["nearest_questions"]
    ridge = found["ridge_questions"](0, experiment.task.seen[0])
    assert ridge.shape == every.shape[1:]
    assert (ridge - every.mean(0)).norm() > 0
