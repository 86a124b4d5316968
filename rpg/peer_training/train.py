"""Train a generator in RPG's place on the checkpoints of a zoo; `rpg train` calls it for `model.generator`.

Writes the same files as the training of RPG: rpg/model.safetensors (EMA weights), rpg/config.json and rpg/log.csv.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.peer_training.vectors import read_vectors
from rpg.peers.base import Peer, ZooVectors
from rpg.peers.build import build_peer
from rpg.sources import code_digest
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.prompts import prompts_of
from rpg.training.trainer import Loss, Training, learning_rate, run_training
from rpg.utils.device import device
from rpg.utils.rng import derive


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

    def one_step(self) -> Tensor:
        """Take one step, as `Training` does; the first of a phase prepares it."""
        if self.step + 1 in self.firsts:
            self.peer.begin(self.phase(self.step + 1), self.zoo)
        return super().one_step()

    def _draw(self, step: int) -> Any:
        return self.phase(step), super()._draw(step)


def first_steps(shares: Sequence[float], steps: int) -> list[int]:
    """Return the first step (from 1) of each phase, from the shares of the steps that the phases take."""
    firsts, spent = [], 0.0
    for share in shares:
        firsts.append(1 + round(spent * steps))
        spent += share
    return firsts


def peer_loss(model: Peer, zoo: ZooVectors, batch: int) -> Loss:
    """Return the loss of a random batch of checkpoints."""
    count = len(zoo.points_NP)

    def draw(draw: torch.Generator) -> Any:
        picks = torch.randperm(count, generator=draw)[:batch]
        images = zoo.shown(picks.tolist(), draw) if zoo.shown else None
        if zoo.views_VP is None:
            return picks, images, None, draw
        shown = torch.randint(len(zoo.views_VP), (len(picks), 2), generator=draw)
        # The first view is the network as it is, because the sampler encodes networks as they are.
        shown[:, 0] = 0
        return picks, images, zoo.views_VP[shown], draw

    def compute(network: Any, drawn: Any) -> Tensor:
        phase, (picks, images, views_BP, generator) = drawn
        views_BP = None if views_BP is None else views_BP.to(model.anchor.device)
        points_BP = zoo.points_NP[picks].to(model.anchor)
        conditions_BC = model.conditions(zoo.conditions_NC[picks].to(model.anchor), images)
        return model.loss(phase, points_BP, conditions_BC, views_BP, generator)

    return Loss(draw, compute)


def train_peer(
    experiment: Experiment, tokens: Path, folder: Path, seconds: Path, base: Path, data_root: str | None
) -> None:
    """Train the peer of `experiment` on the token store `tokens`, as `train_rpg` trains RPG; raises the same errors.

    `base` is the folder of the base network, from whose features a peer with the condition `images` learns.
    """
    params, on = experiment.train, device()
    assert experiment.model.generator
    store, task = TokenStore(tokens), load_task(experiment.task, data_root)
    torch.manual_seed(derive(params.seed, "train", "weights"))
    started = time.perf_counter()
    prompts = prompts_of(experiment, base, data_root)
    zoo = read_vectors(experiment, store, task, prompts)
    sizes = ConditionTable.of(experiment.model.conditions, store).sizes
    model = build_peer(experiment.model.generator, store.layout.padding(), sizes, experiment.images)
    if prompts and model.conditions.images:
        model.conditions.images.standardize(prompts.features_nF)
    model.fit(zoo)
    trained = params if model.shares else params.model_copy(update={"steps": 0})
    training = PhasedTraining(trained, model, zoo, on)
    # Alignment, principal components and the like belong to the training's seconds. A saved state holds them already.
    training.seconds = time.perf_counter() - started
    # What is stored, such as principal components, counts; the anchor is no part of the model.
    training.parameters = sum(tensor.numel() for name, tensor in model.state_dict().items() if name != "anchor")
    blocks = experiment.model_dump(include={"task", "model", "diffusion", "train"})
    learns_from = [blocks, store.sha256, code_digest("train", experiment.task, peer=True)]
    run_training(training, folder, seconds, experiment.model, experiment.diffusion, store, learns_from)
