"""What the layers ask of a benchmark."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from rpg.params import Base, Run, RunnerBase, RunnerZoo, Zoo
from rpg.tasks.stack import StateDict

# Called with the step and the state dicts of the networks that are trained together.
Save = Callable[[int, list[StateDict]], None]


@dataclass(frozen=True)
class Judgement:
    """What was found of one network on one split.

    `scores`: metric → percent. `answers` [n] int64: what it takes n things for, as `Task.targets` has what they are.
    """

    scores: dict[str, float]
    answers: Tensor


@dataclass(frozen=True)
class Region:
    """A part of an image that is of one class: `mask` bool [H, W]."""

    index: int
    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class Picture:
    """An image [H, W, 3] uint8, RGB, what is on it and what a network found."""

    image: np.ndarray
    truth: list[Region]
    found: list[Region]


class Task(ABC):
    """Builds, trains and scores the source networks of one experiment.

    `metrics` are in percent, higher being better; the first is what networks are compared by.
    """

    metrics: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The metric that networks are compared by."""
        return self.metrics[0]

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """A network in evaluation mode to put weights into; its own mean nothing."""

    @property
    def example(self) -> Tensor | None:
        """[2, C, H, W] images for which `network` answers with one tensor; None if it takes or gives more than that."""
        return None

    @abstractmethod
    def check(self) -> None:
        """UserError if the data set or the network can't be had, or if they do not fit each other."""

    @abstractmethod
    def train_base(self, base: Base | RunnerBase, seed: int) -> StateDict:
        """Train a network that the zoo's runs start from; UserError if the loss stops being finite."""

    @abstractmethod
    def train(self, zoo: Zoo | RunnerZoo, runs: Sequence[Run], base: StateDict | None, save: Save) -> None:
        """Train the networks of `runs`, all of one seed, and call `save` with each step to be kept.

        They start from `base`, if it is given. Raises UserError if the loss stops being finite.
        """

    @abstractmethod
    def judge(self, state_dict: StateDict, split: str, code: str | None = None) -> Judgement:
        """What a network with these weights does on 'validation' or 'test', in the task of `code` if there is one.

        Raises UserError if the weights do not fit the network.
        """

    @abstractmethod
    def targets(self, split: str, code: str | None = None) -> Tensor:
        """[n] int64, on the CPU: the answers that are right."""

    def score(self, state_dict: StateDict, split: str = "test", code: str | None = None) -> float:
        """`metric` in percent; raises as `judge` does."""
        return self.judge(state_dict, split, code).scores[self.metric]

    def majority(self, code: str, split: str = "test") -> float:
        """Accuracy in percent on `split` of always giving the answer that is more frequent in training."""
        raise NotImplementedError("a task without task codes")

    def pictures(self, state_dict: StateDict, count: int) -> list[Picture]:
        """What a network finds on the first `count` validation images; empty if there is nothing to be drawn."""
        return []
