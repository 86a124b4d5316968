"""The section about other metrics has a row for each network and metric, and none where there is one metric."""

from rpg.tasks.openmmlab.report import TEXT, section
from rpg.tasks.registry import task_blocks
from rpg.utils.artifacts import Reported


def of(mean: float) -> dict:
    summary = {"mean": mean, "std": 0, "interval": [mean, mean], "min": mean, "best": mean, "n": 1}
    return {"original": summary, "rpg": summary}


def reported(metric: str, mean: float, others: dict | None = None) -> Reported:
    tree = {"task": "x", "metric": metric, "parameters": 1, "differences": {}, **of(mean), "others": others or {}}
    return Reported.model_validate(tree)


def test_rows() -> None:
    others = {"bbox AP75": of(3), "segm mAP": of(4), "bbox AP50": of(2)}
    entries = {
        "mini": reported("top1", 0),
        "vitdet": reported("bbox mAP", 1, others),
        "adapters": reported("average accuracy", 5, {"BoolQ": of(6)}),
    }
    found = section(entries)
    assert found
    assert found.text == TEXT
    assert [(*columns.values(), scores.rpg.mean) for columns, scores in found.rows] == [
        ("vitdet", "bbox mAP", 1),
        ("vitdet", "bbox AP50", 2),
        ("vitdet", "bbox AP75", 3),
        ("vitdet", "segm mAP", 4),
    ]
    # Both kinds share it.
    assert [task_blocks()[kind].report_section(entries) for kind in ("segmentation", "detection")] == [found, found]


def test_none_without_other_metrics() -> None:
    assert section({"mini": reported("top1", 0)}) is None
