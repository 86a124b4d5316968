"""Load benchmarks: `load_task`; and count BatchNorm's statistics of any number of networks: `recounted`."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from rpg.tasks.base import DifferentiableTask, PromptedTask, Task, TextTask
from rpg.tasks.config import TaskConfig, ZooConfig
from rpg.tasks.stack import StateDict
from rpg.utils.device import device
from rpg.utils.errors import UserError

Facts = TypeVar("Facts")


def load_task(config: TaskConfig, data_root: str | None) -> Task:
    """Return the task that the `task` block of an experiment describes."""
    # The device must be chosen before the import of libraries that look for GPUs themselves.
    device()
    return config.load(data_root)


def differentiable(task: Task) -> DifferentiableTask | None:
    """Return the task if its loss is differentiable in a network's weights, else None."""
    return task if isinstance(task, DifferentiableTask) else None


def load_differentiable(config: TaskConfig, zoo: ZooConfig, data_root: str | None) -> DifferentiableTask:
    """Return the task of a block, for a task whose loss is differentiable in a network's weights.

    The loss prepares its examples as the training of the `zoo` does.

    The validation of params.yaml has refused every other task.
    """
    task = differentiable(load_task(config, data_root))
    assert task
    task.follow(zoo)
    return task


def load_prompted(config: TaskConfig, data_root: str | None) -> PromptedTask:
    """Return the task of a block, for a task whose networks images can ask for; see `load_differentiable`."""
    return prompted_task(load_task(config, data_root))


def prompted_task(task: Task) -> PromptedTask:
    """Return the task, for a task whose networks images can ask for; see `load_differentiable`."""
    assert isinstance(task, PromptedTask)
    return task


def text_task(task: Task) -> TextTask:
    """Return the task, for a task whose networks questions can ask for; see `load_differentiable`."""
    assert isinstance(task, TextTask)
    return task


def check_features(kind: str, found: int, expected: int) -> None:
    """Raise UserError unless the prompts of the condition `kind` have as many features as params.yaml says."""
    if found != expected:
        raise UserError(
            f"params.yaml: model.conditions: {kind}: features: {expected}, but the network that reads the prompts"
            f" gives {found}; set features to {found}"
        )


def recounted(
    task: DifferentiableTask, networks: Iterable[tuple[Facts, StateDict, str | None]]
) -> Iterator[tuple[Facts, StateDict]]:
    """Yield the networks (facts, weights and code), with BatchNorm's statistics counted on training images."""
    remaining = iter(networks)
    while part := list(islice(remaining, task.judge_batch)):
        facts, state_dicts, codes = zip(*part, strict=True)
        yield from zip(facts, task.recount(state_dicts, codes), strict=True)
