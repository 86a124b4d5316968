"""What follows the sampling: recounted statistics, and the selection by training images."""

from pathlib import Path

import pytest
import torch
from peers import with_peer

from rpg.config.experiment import Experiment
from rpg.generator.peer_samples import peer_networks
from rpg.peers.train import train_peer
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_generator

REQUESTS = [((0,), None), ((1,), None), ((2,), None)]


def sampled(finished: Path, folder: Path, experiment: Experiment) -> list[dict[str, torch.Tensor]]:
    tokens = finished / "results/mini/tokens"
    if not (folder / "rpg").exists():
        train_peer(experiment, tokens, folder / "rpg", folder / "seconds.json", None)
    store, task = TokenStore(tokens), load_task(experiment.task, None)
    model = load_generator(folder / "rpg", store, torch.device("cpu"))
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


def test_selection_keeps_the_best_on_training_images(finished: Path, tmp_path: Path) -> None:
    task = load_task(with_peer(finished, "sane").task, None)
    wide = {"bandwidth": 3.0, "recount": True}
    plain = sampled(finished, tmp_path, with_peer(finished, "sane", **wide))
    kept = sampled(finished, tmp_path, with_peer(finished, "sane", candidates=4, rounds=2, **wide))
    assert len(kept) == len(plain) == 3

    def mean(networks: list[dict[str, torch.Tensor]]) -> float:
        return sum(task.score(one, "train") for one in networks) / len(networks)

    scores = [task.score(one, "train") for one in kept]
    assert scores == sorted(scores, reverse=True)
    assert mean(kept) > mean(plain)
    assert mean(kept) == pytest.approx(sum(scores) / 3)
