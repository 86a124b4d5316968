"""config.yaml of an experiment holds all its values, and is written anew only when it changes."""

import copy
from pathlib import Path

import pytest
import yaml
from conftest import MINIATURE, SETTINGS, TASKS

from rpg.config.experiment import parse_experiment
from rpg.config.loading import check_params
from rpg.config.params import Params
from rpg.config.resolved import resolved_yaml, write_configs


def params(**changes: object) -> Params:
    experiments = {"mini": {**MINIATURE, **changes}, "tasks": TASKS}
    return check_params({**SETTINGS, "run": ["mini"], "experiments": copy.deepcopy(experiments)})


@pytest.mark.parametrize("name", ["mini", "tasks"])
def test_it_is_the_experiment_again(name: str) -> None:
    experiment = params().experiment(name)
    text = resolved_yaml(name, experiment)
    assert text.startswith(f"# The resolved configuration of experiment {name}.\n# Written by `rpg config` ")
    tree = yaml.safe_load(text)
    assert parse_experiment(tree) == experiment
    # Also what is null, in the order of the blocks. Two newer blocks are left out where they are null.
    newer = ("prompts", "wanted")
    assert list(tree) == [block for block in type(experiment).model_fields if block not in newer]


def test_one_file_for_each_named_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_configs(params(), ["mini"])
    (path,) = (file for file in tmp_path.rglob("*") if file.is_file())
    assert path == tmp_path / "results/mini/config.yaml"
    assert path.read_text() == resolved_yaml("mini", params().experiment("mini"))
    write_configs(params(), ["tasks"])
    assert (tmp_path / "results/tasks/config.yaml").is_file()


def test_a_file_that_would_not_change_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "results/mini/config.yaml"
    write_configs(params(), ["mini"])
    first = path.stat().st_ino
    write_configs(params(), ["mini"])
    assert path.stat().st_ino == first
    write_configs(params(tokens={"width": 32}), ["mini"])
    assert path.stat().st_ino != first
    assert yaml.safe_load(path.read_text())["tokens"] == {"width": 32, "canonical": None}
