"""The section about subtasks has a row for each adapter, protocol and subtask, and none without adapters."""

from conftest import ADAPTERS

from rpg.tasks.commonsense.report import TEXT, section
from rpg.tasks.registry import task_blocks
from rpg.utils.artifacts import Reported

AVERAGE = "average accuracy"


def of(mean: float) -> dict:
    summary = {"std": 0, "interval": [0, 0], "min": 0, "best": 0, "n": 1}
    return {kind: {**summary, "mean": mean + place} for place, kind in enumerate(("base_model", "original", "rpg"))}


def reported(**keys: object) -> Reported:
    return Reported.model_validate({"parameters": 1, "differences": {}, **of(50), **keys})


def test_rows() -> None:
    others = {f"{AVERAGE} (likelihood)": of(40), "SIQA": of(20), "BoolQ": of(10), "BoolQ (likelihood)": of(30)}
    entry = reported(task="commonsense", metric=AVERAGE, others=others)
    found = section({"mini": reported(task="classification", metric="top1"), "adapters": entry})
    assert found
    assert found.text == TEXT
    assert [tuple(columns.values()) for columns, _ in found.rows] == [
        ("adapters", "generated", "BoolQ", "10.00"),
        ("adapters", "generated", "SIQA", "20.00"),
        ("adapters", "generated", AVERAGE, "50.00"),
        ("adapters", "likelihood", "BoolQ", "30.00"),
        ("adapters", "likelihood", AVERAGE, "40.00"),
    ]
    assert [summaries.rpg.mean for _, summaries in found.rows] == [12, 22, 52, 32, 42]


def test_none_without_adapters() -> None:
    entries = {"mini": reported(task="classification", metric="top1")}
    assert section(entries) is None
    block = task_blocks()[ADAPTERS["task"]["kind"]]
    assert block.report_section({}) is None
    assert task_blocks()["classification"].report_section(entries) is None
