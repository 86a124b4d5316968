"""Benchmarks: how a source network is built, trained and scored. They know nothing of tokens or RPG."""

from rpg.params import ClassificationTask, TaskCodes
from rpg.tasks.classification import Classification


def load_task(params: ClassificationTask | TaskCodes, data_root: str | None) -> Classification:
    """The task that the `task` block of an experiment describes."""
    return Classification(params, data_root)
