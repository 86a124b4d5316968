"""The order of a run's jobs."""

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

from rpg.config.loading import load_params
from rpg.pipeline import workflow
from rpg.stages import STAGES


def test_the_first_experiment_of_run_finishes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = {"run": load_params().run}
    first, *others = workflow.experiments(config)
    highest = max(stage.priority for stage in STAGES.values())
    for stage in STAGES:
        chosen = workflow.priority(stage, config)
        here: Any = SimpleNamespace(experiment=first)
        assert chosen(here) > highest
        # The others keep the order of the stages, so that long chains start first.
        assert all(chosen(SimpleNamespace(experiment=name)) == STAGES[stage].priority for name in others)
    # A run of ablations alone has no such experiment.
    assert workflow.priority("zoo", {"run": []})(here) == STAGES["zoo"].priority


def test_a_joint_experiment_reads_what_its_members_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    here: Any = SimpleNamespace(joint="digits-architectures")
    files = workflow.joint_inputs(here)
    members = load_params().joint["digits-architectures"].members
    tuned = [name for name in members if load_params().experiment(name).tune]
    assert {file for file in files if file.endswith("seconds/tune.json")} == {
        f"results/{name}/seconds/tune.json" for name in tuned
    }
    for name in members:
        assert {f"results/{name}/{file}" for file in ("tokens/layout.json", "metrics.json", "test.json")} <= set(files)
    assert "rpg/joint/train.py" in files
    assert "rpg/reports/tables.py" not in files
    values = workflow.joint(here)
    assert values["members"] == members
    assert values["model"]["backbone"]["positions"] == ["2d", "learned", "described"]
