import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rpg.evaluation.baselines import features, formulas
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
