"""A task is opened by its block."""

import pytest
from conftest import ADAPTERS, MINIATURE, TASKS

from rpg.config.experiment import parse_experiment
from rpg.tasks.base import DifferentiableTask, Task
from rpg.tasks.classification.task import Classification
from rpg.tasks.loading import load_differentiable, load_task


@pytest.mark.parametrize("tree", [MINIATURE, TASKS], ids=["classification", "task_codes"])
def test_each_block_opens_its_task(tree: dict) -> None:
    task = load_task(parse_experiment(tree).task, None)
    assert type(task) is Classification
    assert (task.metrics, task.metric) == (("top1",), "top1")
    assert isinstance(
        load_differentiable(parse_experiment(tree).task, parse_experiment(tree).zoo, None), DifferentiableTask
    )


def test_skeleton_needs_neither_data_nor_memory() -> None:
    task: Task = load_task(parse_experiment(TASKS).task, "/nowhere")
    skeleton = task.skeleton(None)
    assert {tensor.device.type for tensor in skeleton.values()} == {"meta"}
    assert list(skeleton["fc.weight"].shape) == [2, 8]


def test_task_without_a_differentiable_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading refuses it; params.yaml has been refused before."""
    with pytest.raises(AssertionError):
        load_differentiable(parse_experiment(ADAPTERS).task, parse_experiment(ADAPTERS).zoo, None)
