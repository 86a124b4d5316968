"""The measures that promises are made of, by hand, the lists of bounds, and the warning in the tables."""

import json

import pytest
import yaml
from conftest import ROOT
from promises import REDUCED, counts

from rpg.config.loading import load_params
from rpg.reports.artifacts import ExperimentResults
from rpg.reports.promises import PROMISES, BrokenPromise, broken_promises, promise_section, quality


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
    assert broken_promises({"x": entry(95.0)}, bounds) == []
    (broken,) = broken_promises({"x": entry(48.0)}, bounds)
    assert broken == BrokenPromise("x", "rpg", 0.5, 0.98)
    assert str(broken) == "x: rpg is 0.5, promised is at least 0.98"
    assert broken_promises({"x": entry(float("nan"))}, bounds)
    # An experiment of one's own promises nothing.
    assert broken_promises({"y": entry(1.0)}, bounds) == []
    assert counts({"experiments": {"x": entry(95.0)}}) == {"x": {"original": 4, "rpg": 3, "held_out": 2}}


def test_every_shipped_experiment_has_bounds() -> None:
    run = load_params(ROOT / "params.yaml").run
    changes = yaml.safe_load((ROOT / "tests/reduced.yaml").read_text())
    # Experiments outside `run` may have bounds, too.
    assert PROMISES.keys() >= set(run)
    assert PROMISES.keys() <= set(load_params(ROOT / "params.yaml").experiments)
    assert REDUCED.keys() == changes.keys() <= set(run)
    for bounds in (PROMISES, REDUCED):
        assert all(any(measure in ("rpg", "seen") for measure in of) for of in bounds.values())


def test_a_spoiled_result_is_a_warning_in_the_tables() -> None:
    """The promises are checked where the tables are made, on whatever machine that is."""
    tree = json.loads((ROOT / "results/metrics.json").read_text())
    name = "facts-dora-r4"
    experiments = ExperimentResults.model_validate({"experiments": {name: tree["experiments"][name]}}).experiments
    good = promise_section(experiments)
    assert "bounds are kept." in good
    assert "Warning" not in good
    experiments[name].rpg.mean *= 0.93
    spoiled = promise_section(experiments)
    assert "**Warning: 1 of 5 bounds are not kept here.**" in spoiled
    ((network, measure, here, bound),) = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in spoiled.splitlines()
        if line.startswith(f"| {name} ")
    ]
    assert (network, measure) == (name, "rpg")
    assert float(here) < float(bound) == PROMISES[name]["rpg"]


def test_an_error_is_no_promised_percentage() -> None:
    assert quality({**entry(48.0), "unit": "m", "lower_is_better": True}) == {}
    assert broken_promises({"x": {**entry(48.0), "unit": "m"}}, {"x": {"rpg": 0.98}}) == []
    assert len(broken_promises({"x": entry(48.0)}, {"x": {"rpg": 0.98}})) == 1
