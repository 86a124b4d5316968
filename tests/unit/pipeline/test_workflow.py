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
