"""The interface between the stages and a benchmark."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict
from rpg.utils.errors import UserError
from rpg.utils.files import write_tensors

if TYPE_CHECKING:
    from rpg.config.model import TextCondition

# A callback that gets the step and the state dicts of the networks in training.
Save = Callable[[int, list[StateDict]], None]


@dataclass(frozen=True)
class Judgement:
    """The result of one network on one split.

    `scores`: metric → score. `answers` [n] int64: the network's answers, comparable with `Task.targets`; n is 0 if
    the benchmark has no comparable answers.
    """

    scores: dict[str, float]
    answers: Tensor

    @classmethod
    def of(cls, metric: str, answers: Tensor, targets: Tensor) -> "Judgement":
        """Return the judgement of a classifier's `answers` [n]; its score is the share of right ones in percent."""
        return cls({metric: 100 * int((answers == targets).sum()) / len(targets)}, answers)


@dataclass(frozen=True)
class Region:
    """A part of an image with one class: `mask` bool [H, W]."""

    index: int
    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class Picture:
    """An RGB image [H, W, 3] uint8, its true regions, and the regions that a network found."""

    image: np.ndarray
    truth: list[Region]
    predicted: list[Region]


class Reference(Protocol):
    """A zoo that networks are compared with."""

    @property
    def weights(self) -> int:
        """The number of a network's weights that RPG generates."""

    def distance(self, state_dict: StateDict) -> float:
        """Return a network's distance to the nearest checkpoint, in standard deviations of a tensor's weights."""


class BaseAnswers(ABC):
    """What a base network can do for a task code without the zoo."""

    @abstractmethod
    def look_up(self, split: str, code: str) -> Judgement:
        """Judge the classes that the network answers on a split, each looked up in `code`."""

    @abstractmethod
    def probe(self, code: str) -> StateDict:
        """Return the network with a new head for the task of `code`, fitted to all training images."""


class Task(ABC):
    """Builds, trains and scores the source networks of one experiment.

    The first of `metrics` is the main one, by which networks are compared; `TaskConfig.metric_kind` is its kind. The
    others are in percent, and higher is better.
    """

    metrics: tuple[str, ...]
    # The best number of networks for one call of `judge_all`.
    judge_batch = 1
    _zoo: Reference | None = None

    @property
    def metric(self) -> str:
        """The main metric, by which networks are compared."""
        return self.metrics[0]

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """A network in evaluation mode to load weights into; its own weights are meaningless."""

    @cached_property
    def buffers(self) -> frozenset[str]:
        """The names of a network's tensors that are its state, not weights: masks, power iterations, observers.

        The running mean and variance of BatchNorm do not count, because RPG generates them.
        """
        names = (name for name, _ in self.network.named_buffers())
        return frozenset(name for name in names if name.rpartition(".")[2] not in ("running_mean", "running_var"))

    @cached_property
    def tied(self) -> dict[str, str]:
        """The further names of a tensor that the network has under several names → its first name."""
        return tied_names(self.network.state_dict())

    def summary(self) -> dict[str, Any]:
        """Return what the zoo's manifest keeps about checkpoints that `train` has read; empty if it trained them."""
        return {}

    def refer(self, zoo: Reference) -> None:
        """Take the zoo that networks are compared with, for a benchmark without a score."""
        self._zoo = zoo

    def fact_names(self, zoo: ZooConfig) -> list[str]:
        """Return the names of `facts`; raises UserError if they can't be read."""
        return []

    def facts(self, run: Run, step: int) -> Mapping[str, float | list[float]]:
        """Return what the user tells of a checkpoint that `train` has saved: name → number or numbers."""
        return {}

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a new network on the CPU, whose weights are meaningless; needs no data. A PeftModel for adapters."""

    def built(self, state_dict: StateDict) -> nn.Module:
        """Return a new network with these weights, in evaluation mode, on the CPU."""
        # The stages build no networks this way, and do not depend on the module.
        from rpg.tasks.adapters import loaded

        return loaded(self.build(), state_dict)

    def adapter_config(self) -> dict[str, Any] | None:
        """Return the content of adapter_config.json; None if the networks are no adapters."""
        return None

    def mmengine_config(self) -> tuple[Any, dict[str, Any]]:
        """Return mmengine's config of the network, and the test data set's `metainfo`, such as its class names.

        Needs no data. Raises UserError for a network of another library.
        """
        raise UserError("--format mmengine: the network is none of mmdet or mmseg; use --format pth or onnx")

    @abstractmethod
    def skeleton(self, base: BaseConfig | None) -> StateDict:
        """Return a checkpoint's tensors on the device "meta", which have shapes but no values; needs no data.

        `base` is the block that makes the language model, for a task that adapts a language model.
        """

    @property
    def example(self) -> Tensor | None:
        """[2, C, H, W] images as inputs of `forward`; None for a network with other inputs."""
        return None

    def forward(self, network: nn.Module, images: Tensor) -> Any:
        """Return a nest of tensors that determine the network's predictions for `images` [n, C, H, W]."""
        return network(images)

    @property
    def parameters(self) -> int:
        """The number of learned parameters of a network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @abstractmethod
    def check(self) -> None:
        """Raise UserError if the data set or the network is not available, or if they do not fit each other."""

    def check_base(self) -> None:
        """Raise UserError, as `check` does, if something that `train_base` needs is missing."""
        self.check()

    @abstractmethod
    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        """Train a network that the zoo's runs start from; Diverged if the loss is no longer finite."""

    @abstractmethod
    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        """Train the networks of `runs` and call `save` at each step to keep.

        Each network starts from its entry in `bases`, or from random weights if the entry is None. Raises Diverged if a
        loss is no longer finite.
        """

    def saves(self, zoo: ZooConfig, run: Run) -> int:
        """Return the number of checkpoints of a run."""
        assert zoo.saves is not None
        return zoo.saves

    def write(self, stem: Path, state_dict: StateDict) -> Path:
        """Write a network and the files that its users need to open it; return the path of its weights."""
        path = stem.with_name(f"{stem.name}.safetensors")
        write_tensors(path, state_dict)
        return path

    def write_base(self, stem: Path, base: BaseConfig, state_dict: StateDict) -> Path:
        """Write a network of `train_base`, as `write` does."""
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
        """Score a network with these weights on 'validation' or 'test', in the task of `code` if given.

        `main_only`: only the score of `metric` is needed, so the method skips other slow work. `kept`: a folder where a
        slow evaluation saves partial results and from which it resumes after an interruption. Raises UserError if the
        weights do not fit the network.
        """

    def judge_all(
        self,
        state_dicts: Sequence[StateDict],
        split: str,
        codes: Sequence[str | None],
        kept: Path | None = None,
        main_only: bool = False,
    ) -> list[Judgement]:
        """Return `judge` of several networks, each in the task of its code."""
        return [
            self.judge(state_dict, split, code, kept, main_only)
            for state_dict, code in zip(state_dicts, codes, strict=True)
        ]

    def references(self) -> dict[str, StateDict]:
        """Return name → networks from outside the zoo to compare with, in addition to the originals."""
        return {}

    @abstractmethod
    def targets(self, split: str, code: str | None = None) -> Tensor:
        """Return [n] int64, on the CPU: the right answers."""

    def score(self, state_dict: StateDict, split: str = "test", code: str | None = None) -> float:
        """Return the score by `metric`; raises the errors of `judge`."""
        return self.judge(state_dict, split, code, main_only=True).scores[self.metric]

    def majority(self, code: str) -> int:
        """Return the most frequent right answer in training, in the task of `code`."""
        raise NotImplementedError("this task has no task codes")

    def base_network(self, state_dict: StateDict) -> BaseAnswers | None:
        """Return what a network of `train_base` with these weights can do for a task code; None if it does nothing."""
        raise NotImplementedError("this task has no task codes")

    def pictures(self, state_dict: StateDict, count: int) -> list[Picture]:
        """Return a network's results on the first `count` validation images; empty if there is nothing to draw."""
        return []


class ImageEncoder(Protocol):
    """A frozen network that computes features of images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the data set's images."""

    @property
    def white(self) -> int:
        """The largest value of the data set's pixels."""

    @property
    def classes(self) -> int:
        """K; the last K features are the probabilities of the network's classes."""

    def tensors(self) -> StateDict:
        """Return all that `DifferentiableTask.image_features_of` needs."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features [n, F], on the CPU, of images [n, C, H, W] uint8."""


class DifferentiableTask(Task):
    """A task with a loss that is differentiable in the weights, so that RPG can train on it."""

    def follow(self, zoo: ZooConfig) -> None:
        """Prepare the training examples of the loss as the zoo's training does; there may be nothing to prepare."""

    @abstractmethod
    def losses(
        self,
        weights: StateDict,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
        statistics: float | None = None,
        teachers: StateDict | None = None,
    ) -> Tensor:
        """Return [E] the losses of networks `weights` [E, ...] on the same `images` random training images.

        Each network has the task of its code. The losses are differentiable in the parameters. With `teachers`
        [E, ...], the loss is the Kullback-Leibler divergence from the teachers' outputs, and no label is read.

        Without `statistics`, the networks use their own running statistics of BatchNorm, which get no gradient. With a
        number, they use the statistics of these images, and the loss adds `statistics` times the distance of their own
        statistics from these, in which the running statistics are differentiable.
        """

    def score_losses(
        self,
        weights: StateDict,
        scores_E: Tensor,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
    ) -> Tensor:
        """Return [E] the losses of networks `weights` [E, ...] that shall have the scores `scores_E`, in training.

        All networks see the same `images` random images. Raises UserError for a task without such a loss.
        """
        raise UserError("params.yaml: tune.loss: this task has no loss for scores; choose labels or outputs")

    @property
    def has_statistics(self) -> bool:
        """Whether the network has BatchNorm, whose running statistics `recount` replaces."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules())

    @abstractmethod
    def recount(self, state_dicts: Sequence[StateDict], codes: Sequence[str | None]) -> list[StateDict]:
        """Return the same weights with BatchNorm's running statistics recomputed from training images.

        Each network has the task of its code.
        """


class PromptedTask(DifferentiableTask):
    """A task whose networks a few labeled images can ask for."""

    @abstractmethod
    def image_features(self, base: StateDict) -> ImageEncoder:
        """Return the features of images by a network of `train_base` with these weights."""

    @abstractmethod
    def image_features_of(self, tensors: StateDict) -> ImageEncoder:
        """Return the features that `tensors` of `image_features` hold; needs no data."""

    @abstractmethod
    def labeled_images(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the images [n, C, H, W] uint8 of "train", "validation" or "test", and their classes [n]."""

    @abstractmethod
    def network_inputs(self, images: Tensor, codes: Sequence[str | None]) -> Tensor:
        """Return what E networks see of images [E, n, C, H, W]."""

    @abstractmethod
    def on(self, data: str) -> "PromptedTask":
        """Return the task on other data, which the block `prompts` names, with this task's networks."""

    @abstractmethod
    def prompted_codes(self, data: str) -> list[str]:
        """Return the tasks that prompts show: the held-out codes, or those of other data."""


@dataclass(frozen=True)
class LossCost:
    """What a loss needs: `weights` of the language model, which each of at most `tokens` of a question goes through."""

    weights: int
    tokens: int


class TextTask(DifferentiableTask):
    """A task whose networks, adapters of a language model, questions without answers can ask for."""

    @abstractmethod
    def prompt_texts(self, split: str, code: str) -> list[str]:
        """Return the questions of a task, in "train", "validation" or "test", as the language model reads them."""

    @abstractmethod
    def prompt_text(self, instruction: str, given: str = "") -> str:
        """Return a question as the language model reads it; `given` is the input that the instruction speaks of."""

    @abstractmethod
    def train_together(self, zoo: ZooConfig, codes: Sequence[str], batches: int = 1) -> StateDict:
        """Return one adapter for all tasks `codes`, which reads as many questions as all of theirs in the zoo together.

        With several of the zoo's `batches` in a step, there are fewer steps, at half of the zoo's learning rate.
        """

    @abstractmethod
    def score_in_context(self, split: str, code: str, examples: Sequence[int]) -> float:
        """Return the score of the language model alone, which reads some training questions with answers before each.

        Its answer is the likeliest choice.

        `examples` are the indices of these training questions.
        """

    @abstractmethod
    def loss_cost(self, base: BaseConfig | None, zoo: ZooConfig) -> LossCost:
        """Return what the loss of a question needs; loads no weights."""

    @abstractmethod
    def text_features(self, condition: "TextCondition", texts: Sequence[str]) -> Tensor:
        """Return the features [n, F], on the CPU, of n questions for the condition `text`."""

    @abstractmethod
    def unknown_share(self, condition: "TextCondition", texts: Sequence[str]) -> float:
        """Return the share of the questions' tokens that stand for words that the features' model does not know."""


def tied_names(state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the further names of a tensor that is in `state_dict` under several names → its first name."""
    first: dict[object, str] = {}
    tied = {}
    for name, tensor in state_dict.items():
        place = tensor.data_ptr(), tensor.shape, tensor.stride()
        if tensor.numel() and (earlier := first.setdefault(place, name)) != name:
            tied[name] = earlier
    return tied
