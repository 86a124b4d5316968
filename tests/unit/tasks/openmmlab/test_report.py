"""The section about other metrics has a row for each network and metric, and none where there is one metric."""

from rpg.tasks.openmmlab.report import TEXT, section
from rpg.tasks.registry import task_blocks


def test_rows() -> None:
    others = {"bbox AP75": {"rpg": 3}, "segm mAP": {"rpg": 4}, "bbox AP50": {"rpg": 2}}
    entries = {
        "mini": {"metric": "top1", "rpg": 0},
        "vitdet": {"metric": "bbox mAP", "rpg": 1, "others": others},
        "adapters": {"metric": "average accuracy", "rpg": 5, "others": {"BoolQ": {"rpg": 6}}},
    }
    found = section(entries)
    assert found
    assert found.text == TEXT
    assert [(*columns.values(), of["rpg"]) for columns, of in found.rows] == [
        ("vitdet", "bbox mAP", 1),
        ("vitdet", "bbox AP50", 2),
        ("vitdet", "bbox AP75", 3),
        ("vitdet", "segm mAP", 4),
    ]
    # Both kinds share it.
    assert [task_blocks()[kind].report_section(entries) for kind in ("segmentation", "detection")] == [found, found]


def test_none_without_other_metrics() -> None:
    assert section({"mini": {"metric": "top1"}}) is None
