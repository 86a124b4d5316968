"""Train a generator in RPG's place on the checkpoints of a zoo; `rpg train` calls it for `model.generator`.

Writes the same files as the training of RPG: rpg/model.safetensors (EMA weights), rpg/config.json and rpg/log.csv.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.evaluation.alignment import permute, random_cycle
from rpg.evaluation.geometry import Space
from rpg.evaluation.symmetries import find_space
from rpg.peers import build_peer
from rpg.peers.base import Peer, ZooVectors
from rpg.tasks.base import Task
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.trainer import Loss, Training, learning_rate, run_training
from rpg.utils.device import device
from rpg.utils.rng import derive


def read_vectors(experiment: Experiment, store: TokenStore, task: Task) -> ZooVectors:
    """Return the checkpoints that the peer of `experiment` learns from.

    With `align`, the units of each run's checkpoints are matched with those of the first run's last checkpoint. All
    checkpoints of a run move in the same way.
    """
    params = experiment.model.generator
    assert params
    views = getattr(params, "views", 0) if getattr(params, "contrast", 0.0) else 0
    space = find_space(task, store.layout, store.stats) if params.align or views else Space(store.layout, [])
    points_NP = np.stack([space.point(store[index]) for index in range(len(store))])
    states_N = np.array([store.state(checkpoint) for checkpoint in store.checkpoints])
    if params.align:
        lasts = [np.flatnonzero(states_N == state)[-1] for state in range(len(store.seeds))]
        orders = [space.order(points_NP[last], points_NP[lasts[0]]) for last in lasts]
        for index, state in enumerate(states_N):
            points_NP[index] = points_NP[index][orders[state]]
    table = ConditionTable.of(experiment.model.conditions, store)
    return ZooVectors(
        torch.from_numpy(points_NP),
        torch.cat([values.float() for values in table.values.values()], dim=1),
        torch.from_numpy(states_N),
        random_views(space, max(views, 1), derive(experiment.train.seed, "views")),
    )


def random_views(space: Space, count: int, seed: int) -> Tensor:
    """Return indices [V, P] of `count` random permutations of a network's units; the identity without groups."""
    places_P = np.arange(space.layout.weights)
    if not space.groups:
        return torch.from_numpy(np.tile(places_P, (count, 1)))
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        moved = permute(
            space.tensors(places_P), space.groups, [random_cycle(group.units, draw) for group in space.groups]
        )
        rows.append(np.concatenate([moved[tensor.name].ravel() for tensor in space.layout.tokenized]))
    return torch.from_numpy(np.stack(rows))


class PhasedTraining(Training):
    """The training of a peer: its phases run one after the other, each with a learning rate schedule of its own."""

    def __init__(self, params: Any, model: Peer, zoo: ZooVectors, on: torch.device) -> None:
        self.zoo, self.peer = zoo, model
        self.firsts = first_steps(model.shares, params.steps)
        super().__init__(params, model, peer_loss(model, zoo, params.batch), "train", on)  # type: ignore[arg-type]

    def phase(self, step: int) -> int:
        """Return the phase of a step (from 1)."""
        return max(index for index, first in enumerate(self.firsts) if first <= step)

    def rate(self, step: int) -> float:
        """Return the learning rate: each phase warms up and decays."""
        first = self.firsts[self.phase(step)]
        ends = [*self.firsts[1:], self.params.steps + 1]
        own = self.params.model_copy(update={"steps": ends[self.phase(step)] - first})
        return learning_rate(own, step - first + 1)

    def _draw(self, step: int) -> Any:
        if step in self.firsts:
            self.peer.begin(self.phase(step), self.zoo)
        return self.phase(step), super()._draw(step)


def first_steps(shares: Sequence[float], steps: int) -> list[int]:
    """Return the first step (from 1) of each phase; a phase without a step is left out of none."""
    firsts, spent = [], 0.0
    for share in shares:
        firsts.append(1 + round(spent * steps))
        spent += share
    return firsts


def peer_loss(model: Peer, zoo: ZooVectors, batch: int) -> Loss:
    """Return the loss of a random batch of checkpoints."""
    count, views = len(zoo.points_NP), len(zoo.views_VP)

    def draw(draw: torch.Generator) -> Any:
        picks = torch.randperm(count, generator=draw)[:batch]
        return picks, torch.randint(views, (len(picks), 2), generator=draw), draw

    def compute(network: Any, drawn: Any) -> Tensor:
        phase, (picks, shown, generator) = drawn
        points_BP, conditions_BC = zoo.points_NP[picks].to(model.anchor), zoo.conditions_NC[picks].to(model.anchor)
        return model.loss(phase, points_BP, conditions_BC, zoo.views_VP[shown].to(model.anchor.device), generator)

    return Loss(draw, compute)


def train_peer(experiment: Experiment, tokens: Path, folder: Path, seconds: Path, data_root: str | None) -> None:
    """Train the peer of `experiment` on the token store `tokens`, as `train_rpg` trains RPG; raises the same errors."""
    params, on = experiment.train, device()
    assert experiment.model.generator
    store, task = TokenStore(tokens), load_task(experiment.task, data_root)
    torch.manual_seed(derive(params.seed, "train", "weights"))
    zoo = read_vectors(experiment, store, task)
    sizes = ConditionTable.of(experiment.model.conditions, store).sizes
    model = build_peer(experiment.model.generator, store.layout, sizes)
    model.fit(zoo)
    trained = params if model.shares else params.model_copy(update={"steps": 0})
    training = PhasedTraining(trained, model, zoo, on)
    blocks = experiment.model_dump(include={"task", "model", "diffusion", "train"})
    run_training(training, folder, seconds, experiment.model, experiment.diffusion, store, [blocks, store.sha256])
