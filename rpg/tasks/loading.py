"""Load benchmarks: `load_task`."""

from rpg.tasks.base import DifferentiableTask, PromptedTask, Task
from rpg.tasks.config import TaskConfig
from rpg.utils.device import device


def load_task(config: TaskConfig, data_root: str | None) -> Task:
    """Return the task that the `task` block of an experiment describes."""
    # The device must be chosen before the import of libraries that look for GPUs themselves.
    device()
    return config.load(data_root)


def differentiable(task: Task) -> DifferentiableTask | None:
    """Return the task if its loss is differentiable in a network's weights, else None."""
    return task if isinstance(task, DifferentiableTask) else None


def load_differentiable(config: TaskConfig, data_root: str | None) -> DifferentiableTask:
    """Return the task of a block, for a task whose loss is differentiable in a network's weights.

    The validation of params.yaml has refused every other task.
    """
    task = differentiable(load_task(config, data_root))
    assert task
    return task


def load_prompted(config: TaskConfig, data_root: str | None) -> PromptedTask:
    """Return the task of a block, for a task whose networks images can ask for; see `load_differentiable`."""
    task = load_task(config, data_root)
    assert isinstance(task, PromptedTask)
    return task
