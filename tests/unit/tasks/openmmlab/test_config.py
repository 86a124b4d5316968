"""Blocks of segmentation and detection."""

import pytest
from conftest import SCENES
from pydantic import ValidationError

from rpg.tasks.detection.config import DetectionTask
from rpg.tasks.openmmlab.config import OpenMMLabTask, RunnerBase, RunnerZoo
from rpg.tasks.segmentation.config import SegmentationTask


@pytest.mark.parametrize(
    ("block", "kind", "own", "other"),
    [(SegmentationTask, "segmentation", "ade20k", "coco"), (DetectionTask, "detection", "coco", "ade20k")],
)
def test_each_has_its_own_data_sets(block: type[OpenMMLabTask], kind: str, own: str, other: str) -> None:
    tree = {**SCENES["task"], "kind": kind}
    scenes = block.model_validate(tree)
    assert "rpg/data" in scenes.code()
    real = block.model_validate({**tree, "data": own})
    assert real.dataset == own
    assert real.dataset_title in ("ADE20K", "COCO 2017")
    assert real.code() == scenes.code()
    with pytest.raises(ValidationError, match="data"):
        block.model_validate({**tree, "data": other})


def test_runs_of_a_zoo() -> None:
    zoo = RunnerZoo.model_validate(SCENES["zoo"])
    assert (zoo.seeds, zoo.saves, zoo.trained_here, zoo.runs_at_once()) == ([0, 1], 2, True, 1)
    assert RunnerBase.model_validate(SCENES["base"]).seeds == [0]


def test_missing_data_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RPG_DATA", raising=False)
    tree = {**SCENES["task"], "data": "ade20k"}
    assert SegmentationTask.model_validate(SCENES["task"]).missing(None, None, ["zoo"]) == []
    assert SegmentationTask.model_validate(tree).missing(None, None, ["zoo"]) == [
        "data set 'ade20k': no data folder; set RPG_DATA, or data_root in params.yaml"
    ]
