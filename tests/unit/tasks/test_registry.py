"""The benchmarks are found by their folders."""

from pathlib import Path

import pytest
from conftest import ADAPTERS, GIVEN, MINIATURE, SCENES, TASKS

import rpg.tasks
from rpg.config.experiment import experiment_block, parse_experiment
from rpg.tasks.config import TaskConfig
from rpg.tasks.registry import task_blocks

KINDS = {
    "classification": "ClassificationTask",
    "commonsense": "CommonsenseTask",
    "custom": "CustomTask",
    "detection": "DetectionTask",
    "fine_tuning": "FineTuningTask",
    "segmentation": "SegmentationTask",
    "task_codes": "TaskCodes",
}


def test_every_kind_has_its_class_by_name() -> None:
    found = {kind: block.__name__ for kind, block in task_blocks().items()}
    assert KINDS.items() <= found.items()
    assert list(found) == sorted(found)
    assert task_blocks() is task_blocks()


def test_every_folder_with_a_config_is_a_benchmark_or_shared_by_some() -> None:
    folders = {path.parent.name for path in Path(rpg.tasks.__path__[0]).glob("*/config.py")}
    used = {parent.__module__.split(".")[-2] for block in task_blocks().values() for parent in block.__mro__[:-1]}
    assert folders <= used


@pytest.mark.parametrize("kind", task_blocks())
def test_what_every_benchmark_says(kind: str) -> None:
    block = task_blocks()[kind]
    assert issubclass(block, TaskConfig)
    assert block.optional <= {"base", "tune", "hypernetwork", "prompts", "wanted"}
    assert ("base" in block.optional) == (block.base_block is not None)
    assert not block.needs_base or block.base_block
    for method in ("load", "card", "dataset"):
        assert getattr(block, method) is not getattr(TaskConfig, method)
    assert block.run_keys <= set(block.model_fields)
    for group in (block, block.zoo_block, *([block.base_block] if block.base_block else [])):
        assert group.__doc__


@pytest.mark.parametrize("tree", [MINIATURE, TASKS, SCENES, ADAPTERS, GIVEN], ids=lambda tree: tree["task"]["kind"])
def test_an_experiment_has_the_blocks_of_its_kind(tree: dict) -> None:
    experiment, block = parse_experiment(tree), task_blocks()[tree["task"]["kind"]]
    assert type(experiment) is experiment_block(tree["task"]["kind"])
    assert type(experiment.task) is block
    assert type(experiment.zoo) is block.zoo_block
    assert experiment.base is None or type(experiment.base) is block.base_block
