"""Benchmarks, opened: `load_task`."""

from rpg.tasks.base import DifferentiableTask, Task
from rpg.tasks.config import TaskConfig
from rpg.utils.device import device


def load_task(config: TaskConfig, data_root: str | None) -> Task:
    """The task that the `task` block of an experiment describes."""
    # The device is chosen before libraries are imported that look for GPUs themselves.
    device()
    return config.load(data_root)


def load_differentiable(config: TaskConfig, data_root: str | None) -> DifferentiableTask:
    """As `load_task`, a task whose loss is differentiable in a network's weights.

    An experiment that asks for that loss with another task was refused when params.yaml was read.
    """
    task = load_task(config, data_root)
    assert isinstance(task, DifferentiableTask)
    return task
