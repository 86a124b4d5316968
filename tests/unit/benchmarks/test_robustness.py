"""The measures that promises are made of, by hand, and the lists of bounds."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from promises import FULL, REDUCED, broken, counts

from benchmarks.robustness import apply_changes, metrics_files, quality, rows_of, write_checkout
from rpg.config.loading import load_params
from rpg.config.presets import resolve
from rpg.utils.files import write_json


def entry(rpg: float, worst: float = 90.0, held_out: float = 80.0) -> dict:
    """An experiment of task codes whose originals have 96 %, of held-out tasks 80 %."""
    return {
        "original": {"mean": 96.0, "n": 4},
        "rpg": {"mean": rpg, "min": worst, "n": 3},
        "held_out": {"mean": held_out, "n": 2},
        "original_by_set": {"held_out": {"mean": 80.0, "n": 2}},
        "baselines": {
            "ridge": {"held_out": {"mean": 70.5}, "seen": {"mean": 95.0}},
            "ridge_recounted": {"held_out": {"mean": 71.5}},
            "base_lookup": {"held_out": {"mean": 82.0}},
        },
    }


def test_measures_by_hand() -> None:
    assert quality(entry(48.0)) == {
        "originals": 96.0,
        "rpg min": 90 / 96,
        "rpg": 0.5,
        "held_out": 1.0,
        "held_out above ridge": 9.5,
        "held_out above ridge_recounted": 8.5,
        "held_out above base_lookup": -2.0,
    }


def test_measures_of_adapters_and_of_detection_by_hand() -> None:
    others = {
        "average accuracy (likelihood)": {
            "original": {"mean": 50.0},
            "rpg": {"mean": 45.0},
            "base_model": {"mean": 20.0},
        },
        "PIQA": {"original": {"mean": 1.0}, "rpg": {"mean": 1.0}, "base_model": {"mean": 1.0}},
    }
    plain = {"original": {"mean": 40.0}, "rpg": {"mean": 30.0, "min": 20.0}}
    assert quality({**plain, "base_model": {"mean": 4.0}, "others": others}) == {
        "originals": 40.0,
        "rpg min": 0.5,
        "rpg": 0.75,
        "originals, average accuracy (likelihood)": 50.0,
        "rpg, average accuracy (likelihood)": 0.9,
        "originals above base_model": 36.0,
        "originals above base_model, average accuracy (likelihood)": 30.0,
    }
    segm = {"segm mAP": {"original": {"mean": 40.0}, "rpg": {"mean": 42.0}}}
    assert quality({**plain, "others": segm})["rpg, segm mAP"] == pytest.approx(1.05)


def test_a_broken_promise_is_a_line() -> None:
    bounds = {"x": {"rpg": 0.98, "held_out above ridge": 5.0}}
    assert broken({"experiments": {"x": entry(95.0)}}, bounds) == []
    (line,) = broken({"experiments": {"x": entry(48.0)}}, bounds)
    assert line == "x: rpg is 0.5000, promised is 0.98"
    assert broken({"experiments": {"x": entry(float("nan"))}}, bounds)
    with pytest.raises(KeyError):
        broken({"experiments": {"y": entry(95.0)}}, bounds)
    assert counts({"experiments": {"x": entry(95.0)}}) == {"x": {"original": 4, "rpg": 3, "held_out": 2}}


def test_every_shipped_experiment_has_bounds() -> None:
    run = load_params(ROOT / "params.yaml").run
    changes = yaml.safe_load((ROOT / "tests/reduced.yaml").read_text())
    assert FULL.keys() == set(run)
    assert REDUCED.keys() == changes.keys() <= set(run)
    for bounds in (FULL, REDUCED):
        assert all(any(measure in ("rpg", "seen") for measure in of) for of in bounds.values())


def test_changes_go_into_params(tmp_path: Path) -> None:
    tree = resolve(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
    apply_changes(tree, {"digits-tasks": {"train.steps": 7, "task.network.name": "x", "hypernetwork": None}})
    experiment = tree["experiments"]["digits-tasks"]
    assert (experiment["train"]["steps"], experiment["task"]["network"]["name"]) == (7, "x")
    assert "hypernetwork" not in experiment
    with pytest.raises(KeyError, match=r"digits-tasks\.train\.stesp"):
        apply_changes(tree, {"digits-tasks": {"train.stesp": 7}})


def test_checkout_has_a_training_per_seed_and_its_rows(tmp_path: Path) -> None:
    names, seeds = ["digits-resnet", "digits-tasks"], [0, 2]
    write_checkout(tmp_path, names, seeds, None, rounded=False)
    params = load_params(tmp_path / "params.yaml")
    assert params.run == names
    again = params.experiment("digits-tasks-seed-2/plain-2")
    assert (again.train.seed, again.tune.seed, again.hypernetwork.seed) == (2, 2, 2)
    assert again.train.precision == again.tune.precision == "float32"
    own = params.experiment("digits-tasks").model_dump()
    for block in ("train", "tune", "hypernetwork"):
        own[block]["seed"] = 2
    assert again.model_dump() == own
    files = metrics_files(tmp_path, names, seeds)
    expected = [
        "digits-resnet",
        "digits-resnet-seed-2/plain-2",
        "digits-tasks",
        "digits-tasks-seed-2/plain-2",
    ]
    assert [str(path.parent.relative_to(tmp_path / "results")) for path in files] == expected
    # Bounds are on the test split, whose numbers the tables show.
    assert {path.name for path in files} == {"test.json"}
    for path, mean in zip(files, (96.0, 48.0, 96.0, 72.0), strict=True):
        write_json(path, entry(mean))
    rows = {row["measure"]: row for row in rows_of(tmp_path, "digits-tasks", seeds, "avx2")}
    assert rows["rpg"] == {
        "experiment": "digits-tasks",
        "measure": "rpg",
        "arithmetic": "avx2",
        "seed 0": 1.0,
        "seed 2": 0.75,
        "worst": 0.75,
    }
