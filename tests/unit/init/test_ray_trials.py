"""The numbers that Ray Tune keeps beside the checkpoints of its trials."""

import json
import math
from pathlib import Path

import pytest
from foreign import save, write_ray

from rpg.init.ray_trials import trial_facts, trial_of
from rpg.utils.errors import UserError


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The eight checkpoints of four trials."""
    monkeypatch.chdir(tmp_path)
    write_ray()
    return sorted(Path("zoo").rglob("model.pt"))


def test_a_row_for_each_checkpoint_of_what_differs(checkpoints: list[Path]) -> None:
    rows = trial_facts(checkpoints)
    assert [list(row) for row in rows] == [["checkpoint", "act", "optimizer.rate", "loss", "training_iteration"]] * 8
    assert [row["checkpoint"] for row in rows] == list(map(str, checkpoints))
    assert [tuple(row.values())[1:] for row in rows] == [
        ("relu", 0.1, 0.1, 1.0),
        ("relu", 0.1, 0.05, 2.0),
        ("tanh", 0.1, 0.1, 1.0),
        ("tanh", 0.1, 0.05, 2.0),
        ("relu", 0.2, 0.2, 1.0),
        ("relu", 0.2, 0.1, 2.0),
        ("tanh", 0.2, 0.2, 1.0),
        ("tanh", 0.2, 0.1, 2.0),
    ]


def test_the_trial_is_the_nearest_folder_with_parameters(checkpoints: list[Path]) -> None:
    assert trial_of(checkpoints[0]) == checkpoints[0].parents[1]
    save("elsewhere/model.pt", {})
    assert trial_of(Path("elsewhere/model.pt")) is None
    assert trial_facts([*checkpoints, Path("elsewhere/model.pt")]) == []


def test_earlier_versions_name_checkpoints_by_their_iteration(checkpoints: list[Path]) -> None:
    trial = checkpoints[0].parents[1]
    (trial / "progress.csv").write_text("loss,training_iteration\n0.7,1\n0.6,2\n")
    first, then = (trial / f"checkpoint_00000{number}" for number in (1, 2))
    (trial / "checkpoint_000001").rename(then)
    (trial / "checkpoint_000000").rename(first)
    rows = trial_facts([first / "model.pt", then / "model.pt"])
    assert [(row["loss"], row["training_iteration"]) for row in rows] == [(0.7, 1.0), (0.6, 2.0)]


def test_names_become_those_that_a_table_may_have(checkpoints: list[Path]) -> None:
    for place, path in enumerate(checkpoints):
        number = place // 2
        tree = {"a/b": number, "seed": number, "-x": number, "flag": number > 1, "none": None, "list": [1]}
        (path.parents[1] / "params.json").write_text(json.dumps({**tree, "inf": math.inf}))
    rows = trial_facts(checkpoints)
    assert list(rows[0])[:5] == ["checkpoint", "a_b", "seed_", "x-x", "flag"]
    assert [row["flag"] for row in rows] == [0.0] * 4 + [1.0] * 4


def test_texts_that_are_names_are_no_classes(checkpoints: list[Path]) -> None:
    trial = checkpoints[0].parents[1]
    (trial / "progress.csv").unlink()
    (trial / "params.json").write_text('{"name": "one"}')
    # One text alone says nothing.
    assert trial_facts([path for path in checkpoints if trial in path.parents]) == []


def test_parameters_that_cannot_be_read(checkpoints: list[Path]) -> None:
    path = checkpoints[0].parents[1] / "params.json"
    path.write_text("{")
    with pytest.raises(UserError) as error:
        trial_facts(checkpoints)
    assert str(error.value).startswith(f"{path}: can't be read (Expecting property name")
