"""Alignment and permuted views keep a network's answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peers import with_peer

from rpg.evaluation.geometry import Space
from rpg.evaluation.symmetries import find_space
from rpg.peer_training import vectors
from rpg.peer_training.vectors import random_views, read_vectors
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.utils.errors import UserError


def test_alignment_brings_runs_nearer_and_views_keep_the_answers(finished: Path) -> None:
    store = TokenStore(finished / "results/mini/tokens")
    experiment = with_peer(finished, "sane", align=True)
    task = load_task(experiment.task, None)
    aligned = read_vectors(experiment, store, task)
    plain = read_vectors(with_peer(finished, "sane"), store, task)
    first, last = 1, len(store) - 1

    def apart(zoo: object) -> float:
        points = zoo.points_NP  # type: ignore[attr-defined]
        return float((points[first] - points[last]).square().mean().sqrt())

    assert apart(aligned) < 0.97 * apart(plain)
    assert torch.equal(aligned.points_NP[first], plain.points_NP[first])
    space = find_space(task, store.layout, store.stats)
    assert space.groups
    views = random_views(space, 2, 0)
    assert len(views) == 3
    assert torch.equal(views[0], torch.arange(store.layout.weights))
    assert not torch.equal(views[1], views[2])
    for point_P in (aligned.points_NP[last], plain.points_NP[last], plain.points_NP[last][views[1]]):
        weights = store.detokenize(space.tokens(np.asarray(point_P)).unsqueeze(0), torch.tensor([2]))
        score = task.judge({name: of[0] for name, of in weights.items()}, "validation").answers
        assert (score == answers_of_last(finished, store)).float().mean() > 0.99


def answers_of_last(finished: Path, store: TokenStore) -> torch.Tensor:
    experiment = with_peer(finished, "sane")
    task = load_task(experiment.task, None)
    weights = store.detokenize(store[len(store) - 1].unsqueeze(0), torch.tensor([2]))
    return task.judge({name: of[0] for name, of in weights.items()}, "validation").answers


def test_permutations_need_all_tensors_and_known_units(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore(finished / "results/mini/tokens")
    experiment = with_peer(finished, "sane", align=True)
    task = load_task(experiment.task, None)
    part = experiment.model_copy(update={"tokens": experiment.tokens.model_copy(update={"only": ["conv1*"]})})
    with pytest.raises(UserError, match=r"tokens\.only: a permutation needs all tensors"):
        read_vectors(part, store, task)
    assert read_vectors(with_peer(finished, "flow"), store, task).views_VP is None
    monkeypatch.setattr(vectors, "find_space", lambda task, layout, stats: Space(layout, []))
    with pytest.raises(UserError, match=r"model\.generator: no units to permute were found"):
        read_vectors(experiment, store, task)
