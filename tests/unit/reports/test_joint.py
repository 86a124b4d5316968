"""The comparison of a joint RPG with each experiment's own."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import joint_tree

from rpg.config.loading import load_params
from rpg.reports.joint import run_joint
from rpg.utils.errors import UserError


@pytest.fixture(scope="module")
def tree(joined: Path) -> dict:
    return json.loads((joined / "results/both/joint.json").read_text())


def test_members_are_beside_their_own_generators(joined: Path, tree: dict) -> None:
    assert [entry["experiment"] for entry in tree["members"]] == ["narrow", "wide"]
    for entry in tree["members"]:
        folder = joined / "results" / entry["experiment"]
        test, model = (json.loads((folder / name).read_text()) for name in ("test.json", "tune/config.json"))
        seconds = [json.loads((folder / f"seconds/{stage}.json").read_text())["seconds"] for stage in ("train", "tune")]
        assert entry["own"]["test"] == test["rpg"]["mean"]
        assert entry["own_parameters"] == model["parameters"]
        assert entry["own_seconds"] == pytest.approx(sum(seconds), abs=1e-3)
        for split in ("validation", "test"):
            # Four samples of each of two trainings.
            summary = entry["joint"][split]
            assert summary["n"] == 8
            assert summary["mean"] == pytest.approx(sum(summary["by_seed"]) / 2, abs=0.01)
    assert tree["own_seconds"] == pytest.approx(sum(entry["own_seconds"] for entry in tree["members"]), abs=1e-3)


def test_an_architecture_that_was_not_trained_is_beside_its_rivals(tree: dict) -> None:
    (entry,) = tree["unseen"]
    assert entry["experiment"] == "middle"
    rows = {row["method"]: row for row in entry["rows"]}
    assert list(rows) == [
        "joint RPG",
        "random weights",
        "narrow, cut or padded",
        "wide, cut or padded",
        "from scratch",
    ]
    # Each of the four states in two trainings; each run's last checkpoint; each seed.
    assert [row["test"]["n"] for row in rows.values()] == [8, 2, 2, 2, 2]
    assert rows["random weights"]["test"]["mean"] < 30
    assert rows["from scratch"]["seconds"] == pytest.approx(rows["joint RPG"]["seconds"], rel=3)


def test_the_page_has_the_numbers_of_the_file(joined: Path, tree: dict) -> None:
    page = (joined / "results/both/README.md").read_text()
    assert f"{tree['parameters']:,} parameters" in page
    for entry in tree["members"]:
        share = entry["joint"]["test"]["mean"] / entry["own"]["test"]
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {entry['experiment']} "))
        assert f"{share:.3f}" in row
        assert f"{entry['joint']['validation']['mean']:.2f}" in row


def test_a_member_without_scores_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(joint_tree()))
    with pytest.raises(UserError, match="rpg score --experiment narrow"):
        run_joint(load_params(tmp_path / "params.yaml"), "both", tmp_path / "results", None)
    assert not (tmp_path / "results").exists()
