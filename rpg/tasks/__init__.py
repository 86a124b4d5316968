"""Benchmarks: how a source network is built, trained and scored. They know nothing of tokens or RPG."""

from rpg.device import device
from rpg.params import AnyTask, CommonsenseTask, CustomTask, DetectionTask, FineTuningTask, SegmentationTask
from rpg.tasks.classification import Classification
from rpg.tasks.task import Task


def load_task(params: AnyTask, data_root: str | None) -> Task:
    """The task that the `task` block of an experiment describes."""
    # Chosen before libraries are imported that look for GPUs themselves.
    device()
    if isinstance(params, SegmentationTask):
        from rpg.tasks.segmentation import Segmentation

        return Segmentation(params, data_root)
    if isinstance(params, DetectionTask):
        from rpg.tasks.detection import Detection

        return Detection(params, data_root)
    if isinstance(params, CommonsenseTask):
        from rpg.tasks.commonsense import Commonsense

        return Commonsense(params, data_root)
    if isinstance(params, FineTuningTask):
        from rpg.tasks.fine_tuning import FineTuning

        return FineTuning(params, data_root)
    if isinstance(params, CustomTask):
        from rpg.tasks.custom import Custom

        return Custom(params)
    return Classification(params, data_root)


def load_classification(params: AnyTask, data_root: str | None) -> Classification:
    """The same of an experiment that must be one of classification: no other task has a differentiable loss."""
    task = load_task(params, data_root)
    assert isinstance(task, Classification)
    return task
