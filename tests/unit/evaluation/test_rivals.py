"""The rivals of a network of an architecture that was not trained."""

from pathlib import Path

import pytest
import torch

from rpg.config.loading import load_params
from rpg.evaluation.rivals import last_checkpoints, random_networks, resized, trained_from_scratch
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.utils.files import read_tensors


def test_weights_are_cut_or_padded_with_zeros() -> None:
    weights = {"a": torch.arange(1.0, 7).view(2, 3), "b": torch.tensor(7)}
    made = resized(weights, {"a": torch.zeros(3, 2), "b": torch.tensor(0)})
    assert made["a"].tolist() == [[1, 2], [4, 5], [0, 0]]
    assert made["b"].item() == 7


def test_the_last_checkpoint_of_each_run(joined: Path) -> None:
    folder = joined / "results/narrow"
    store = TokenStore(folder / "tokens")
    found = list(last_checkpoints(store, folder / "zoo"))
    assert len(found) == 2
    last = {one.seed: one for one in store.checkpoints}
    for state_dict, checkpoint in zip(found, last.values(), strict=True):
        assert checkpoint.step == 44
        own = read_tensors(folder / "zoo" / checkpoint.file)
        assert all(torch.equal(state_dict[name], own[name]) for name in own)


def test_random_networks_depend_on_the_seed_alone(joined: Path) -> None:
    task = load_task(load_params(joined / "params.yaml").experiment("middle").task, None)
    one, again = (random_networks(task, seeds) for seeds in ([3, 4], [4, 3]))
    name = next(iter(one[0]))
    assert torch.equal(one[0][name], again[1][name])
    assert not torch.equal(one[0][name], one[1][name])


def test_training_from_scratch_takes_about_the_seconds(joined: Path) -> None:
    experiment = load_params(joined / "params.yaml").experiment("middle")
    task = load_task(experiment.task, None)
    state_dict, steps, spent = trained_from_scratch(task, experiment, 1.0, seed=0)
    assert steps > 5
    assert spent == pytest.approx(1.0, abs=0.9)
    assert task.score(state_dict, "validation") > task.score(random_networks(task, [0])[0], "validation")
