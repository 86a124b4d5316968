"""Checkouts for the measurement of the promises, and its rows."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from benchmarks.robustness import apply_changes, metrics_files, rows_of, write_checkout
from rpg.config.loading import load_params
from rpg.config.presets import resolve
from rpg.utils.files import write_json


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
    write_checkout(tmp_path, names, seeds, [1], None)
    params = load_params(tmp_path / "params.yaml")
    assert params.run == names
    again = params.experiment("digits-tasks-seed-2/plain-2")
    assert (again.train.seed, again.tune.seed, again.hypernetwork.seed) == (2, 2, 2)
    own = params.experiment("digits-tasks").model_dump()
    for block in ("train", "tune", "hypernetwork"):
        own[block]["seed"] = 2
    assert again.model_dump() == own
    files = metrics_files(tmp_path, "digits-tasks", seeds, [1])
    expected = {
        "seed 0": "digits-tasks/test.json",
        "seed 2": "digits-tasks-seed-2/plain-2/test.json",
        "bases 1": "digits-tasks-bases-1/test.json",
    }
    # Bounds are on the test split, whose numbers the tables show.
    assert {label: str(path.relative_to(tmp_path / "results")) for label, path in files.items()} == expected
    # These networks start from random weights.
    assert list(metrics_files(tmp_path, "digits-resnet", seeds, [1])) == ["seed 0", "seed 2"]
    for path, mean in zip(files.values(), (96.0, 72.0, 48.0), strict=True):
        write_json(path, {"original": {"mean": 96.0}, "rpg": {"mean": mean, "min": 90.0}})
    rows = {row["measure"]: row for row in rows_of("digits-tasks", files, "avx2")}
    assert rows["rpg"] == {
        "experiment": "digits-tasks",
        "measure": "rpg",
        "arithmetic": "avx2",
        "seed 0": 1.0,
        "seed 2": 0.75,
        "bases 1": 0.5,
        "worst": 0.5,
    }


def test_other_base_networks_are_trained_for_all_that_start_from_them(tmp_path: Path) -> None:
    names = ["facts-dora-r16", "digits-tasks-seeds"]
    write_checkout(tmp_path, names, [0], [2], None)
    params = load_params(tmp_path / "params.yaml")
    maker, borrower = (params.experiment(f"facts-dora-{rank}-bases-2") for rank in ("r4", "r16"))
    assert maker.base.seeds == [2]
    assert maker.task.model == borrower.task.model == "results/facts-dora-r4-bases-2/base/0002"
    of_states, own = params.experiment("digits-tasks-seeds-bases-2"), params.experiment("digits-tasks-seeds")
    assert (of_states.base.seeds, of_states.zoo.seeds) == ([6, 7, 8], [0, 1, 2])
    assert of_states.train == own.train
    assert own.base.seeds == [0, 1, 2]
