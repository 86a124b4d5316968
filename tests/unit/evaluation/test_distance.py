"""The distance from the zoo, which is the score of networks that no function scores."""

from pathlib import Path

import pytest
import torch
from conftest import run_layers
from foreign import state, told, write_presets, write_runs

from rpg.config.loading import load_params
from rpg.evaluation.distance import ZooDistance, zoo_points
from rpg.evaluation.symmetries import find_space
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.utils.errors import UserError


@pytest.fixture(scope="module")
def distance(tmp_path_factory: pytest.TempPathFactory) -> ZooDistance:
    """The distance from a zoo of two runs of two checkpoints; a third run is held out."""
    folder = tmp_path_factory.mktemp("distance")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_presets(folder)
        write_runs(runs=3)
        told("zoo/*", held_out=["zoo/1"])
        run_layers(Path(), "zoo", "collect", "tokens", experiment="new")
        task = load_task(load_params().experiment("new").task, None)
        store = TokenStore(folder / "results/new/tokens")
    return ZooDistance(store, zoo_points(store, find_space(task, store.layout, store.stats), None))


def test_the_points_are_those_of_what_rpg_learned_from(distance: ZooDistance) -> None:
    assert distance.points.points_NP.shape == (4, 99)
    assert [entry.seed for entry in distance.store.checkpoints] == [0, 0, 2, 2]
    assert [entry.seed for entry in distance.store.held_out] == [1, 1]
    assert [distance.store.state(entry) for entry in distance.store.checkpoints] == [0, 0, 1, 1]
    # Runs that RPG never saw have numbers after those that it knows.
    assert [distance.store.state(entry) for entry in distance.store.held_out] == [2, 2]
    assert distance.weights == 99


@pytest.mark.parametrize(("run", "epoch"), [(0, 1), (0, 2), (2, 2)])
def test_a_checkpoint_is_at_zero(distance: ZooDistance, run: int, epoch: int) -> None:
    assert distance.distance(state(run, epoch)) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_that_of_the_normalized_weights(distance: ZooDistance) -> None:
    """Worked out again: the root mean square of the differences of the tokens, without their padding."""
    changed = state(0, 1)
    changed["3.bias"] = changed["3.bias"] + 0.1
    tokens, others = (distance.store.tokenize(one, 0).nan_to_num() for one in (state(0, 1), changed))
    expected = ((tokens - others).double().square().sum() / 99).sqrt().item()
    assert expected == pytest.approx(0.05, abs=0.01)
    assert distance.distance(changed) == pytest.approx(expected, rel=1e-4)


def test_another_run_is_farther_than_another_save(distance: ZooDistance) -> None:
    near, far = distance.distance(state(0, 3)), distance.distance(state(1, 1))
    assert 0 < near < 0.2
    assert 0.8 < far < 2


def test_another_network_has_no_distance(distance: ZooDistance) -> None:
    with pytest.raises(UserError) as error:
        distance.distance({"0.weight": torch.zeros(8, 4)})
    assert str(error.value) == "the network: tensor '0.bias' is missing; the zoo's other checkpoints have it"
