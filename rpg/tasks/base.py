"""What the stages ask of a benchmark."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict
from rpg.utils.files import write_tensors

# Called with the step and the state dicts of the networks that are trained together.
Save = Callable[[int, list[StateDict]], None]


@dataclass(frozen=True)
class Judgement:
    """What was found of one network on one split.

    `scores`: metric → percent. `answers` [n] int64: what it takes n things for, as `Task.targets` has what they are;
    n is 0 where a network is scored without answers that could be compared.
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
    # How many networks `judge_all` is best asked about at once.
    judge_batch = 1

    @property
    def metric(self) -> str:
        """The metric that networks are compared by."""
        return self.metrics[0]

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """A network in evaluation mode to put weights into; its own mean nothing."""

    @abstractmethod
    def skeleton(self, base: BaseConfig | None) -> StateDict:
        """What a checkpoint holds, as tensors on the device "meta", which have shapes alone; needs no data.

        `base`: the block that makes the language model, of a task that changes one.
        """

    @property
    def example(self) -> Tensor | None:
        """[2, C, H, W] images for which `network` answers with one tensor; None if it takes or gives more than that."""
        return None

    @property
    def parameters(self) -> int:
        """How many numbers of a network are learned."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @abstractmethod
    def check(self) -> None:
        """UserError if the data set or the network can't be had, or if they do not fit each other."""

    def check_base(self) -> None:
        """As `check`, of what `train_base` needs."""
        self.check()

    @abstractmethod
    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        """Train a network that the zoo's runs start from; Diverged if the loss stops being finite."""

    @abstractmethod
    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        """Train the networks of `runs` and call `save` with each step to be kept.

        Each starts from its base, if one is given. Raises Diverged if a loss stops being finite.
        """

    def saves(self, zoo: ZooConfig, run: Run) -> int:
        """How many checkpoints of a run there will be."""
        assert zoo.saves is not None
        return zoo.saves

    def write(self, stem: Path, state_dict: StateDict) -> Path:
        """Write a network, whatever its users need to open it beside it; the file that has its weights."""
        path = stem.with_name(f"{stem.name}.safetensors")
        write_tensors(path, state_dict)
        return path

    def write_base(self, stem: Path, base: BaseConfig, state_dict: StateDict) -> Path:
        """As `write`, a network of `train_base`."""
        return self.write(stem, state_dict)

    @abstractmethod
    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        """What a network with these weights does on 'validation' or 'test', in the task of `code` if there is one.

        `main_only`: of the scores that of `metric` is enough, and whatever else takes time is left out.
        Where that takes long, parts of it are put into the folder `kept`, and taken from there if it was interrupted.
        Raises UserError if the weights do not fit the network.
        """

    def judge_all(
        self,
        state_dicts: Sequence[StateDict],
        split: str,
        codes: Sequence[str | None],
        kept: Path | None = None,
        main_only: bool = False,
    ) -> list[Judgement]:
        """`judge` of several networks, each in the task of its code."""
        return [
            self.judge(state_dict, split, code, kept, main_only)
            for state_dict, code in zip(state_dicts, codes, strict=True)
        ]

    def references(self) -> dict[str, StateDict]:
        """What networks are compared with, besides the originals, by name; not of the zoo."""
        return {}

    @abstractmethod
    def targets(self, split: str, code: str | None = None) -> Tensor:
        """[n] int64, on the CPU: the answers that are right."""

    def score(self, state_dict: StateDict, split: str = "test", code: str | None = None) -> float:
        """`metric` in percent; raises as `judge` does."""
        return self.judge(state_dict, split, code, main_only=True).scores[self.metric]

    def majority(self, code: str, split: str = "test") -> float:
        """Accuracy in percent on `split` of always giving the answer that is more frequent in training."""
        raise NotImplementedError("a task without task codes")

    def pictures(self, state_dict: StateDict, count: int) -> list[Picture]:
        """What a network finds on the first `count` validation images; empty if there is nothing to be drawn."""
        return []


class DifferentiableTask(Task):
    """A task whose loss is differentiable in the weights, so that RPG can be trained on it."""

    @abstractmethod
    def losses(
        self,
        weights: StateDict,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
        recounted: bool = False,
    ) -> Tensor:
        """[E] the loss of networks `weights` [E, ...] in their tasks, on the same `images` random training images.

        Differentiable in the parameters. BatchNorm's running statistics are used as they are, or, if `recounted`, are
        replaced by the statistics of these images.
        """

    @abstractmethod
    def recount(self, state_dicts: Sequence[StateDict]) -> list[StateDict]:
        """The same weights, with BatchNorm's running statistics taken anew from training images."""
