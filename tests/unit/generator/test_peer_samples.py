"""What follows the sampling: recounted statistics, and the selection by training images."""

from pathlib import Path

import pytest
import torch
from peers import with_peer

from rpg.config.experiment import Experiment
from rpg.generator.peer_samples import peer_networks
from rpg.peer_training.train import train_peer
from rpg.peers.loading import load_peer
from rpg.peers.sane import SANE
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable

# More networks of one state than of another.
REQUESTS = [((0,), None), ((2,), None), ((0,), None), ((0,), None)]


def sampled(finished: Path, folder: Path, experiment: Experiment) -> list[dict[str, torch.Tensor]]:
    tokens = finished / "results/mini/tokens"
    if not (folder / "rpg").exists():
        train_peer(experiment, tokens, folder / "rpg", folder / "seconds.json", folder, None)
    store, task = TokenStore(tokens), load_task(experiment.task, None)
    model = load_peer(folder / "rpg", store, torch.device("cpu"))
    assert experiment.model.generator
    model.params = experiment.model.generator  # type: ignore[union-attr, assignment]
    table = ConditionTable.of(experiment.model.conditions, store)
    return [one for one, *_ in peer_networks(model, task, table, store, experiment.sample, REQUESTS)]  # type: ignore[arg-type]


def test_recounting_changes_statistics_alone(finished: Path, tmp_path: Path) -> None:
    plain = sampled(finished, tmp_path, with_peer(finished, "gaussian"))
    recounted = sampled(finished, tmp_path, with_peer(finished, "gaussian", recount=True))
    for one, other in zip(plain, recounted, strict=True):
        changed = {name for name in one if not torch.equal(one[name], other[name])}
        assert changed
        assert {name.rpartition(".")[2] for name in changed} <= {
            "running_mean", "running_var", "num_batches_tracked"
        }  # fmt: skip


def test_selection_keeps_the_best_of_each_state_on_training_images(finished: Path, tmp_path: Path) -> None:
    task = load_task(with_peer(finished, "sane").task, None)
    wide = {"bandwidth": 3.0, "recount": True}
    plain = sampled(finished, tmp_path, with_peer(finished, "sane", **wide))
    once = sampled(finished, tmp_path, with_peer(finished, "sane", candidates=4, rounds=1, **wide))
    twice = sampled(finished, tmp_path, with_peer(finished, "sane", candidates=4, rounds=2, **wide))

    def scores(networks: list[dict[str, torch.Tensor]], state: int) -> list[float]:
        chosen = zip(networks, REQUESTS, strict=True)
        return [task.score(one, "train") for one, (states, _) in chosen if states == (state,)]

    for state, count in ((0, 3), (2, 1)):
        first, second = scores(once, state), scores(twice, state)
        assert len(first) == len(second) == count
        assert first == sorted(first, reverse=True)
        assert sum(first) > sum(scores(plain, state))
        # What the first round has found stays.
        assert all(later >= earlier for earlier, later in zip(first, second, strict=True))


def test_networks_of_the_next_round_are_of_their_own_state(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []
    show = SANE.show
    monkeypatch.setattr(
        SANE, "show", lambda self, points, states: (shown.append(states), show(self, points, states))[1]
    )
    sampled(finished, tmp_path, with_peer(finished, "sane", candidates=2, rounds=2, recount=True))
    assert [states.tolist() for states in shown[-2:]] == [[0, 0, 0, 2], [0, 0, 0, 2]]
