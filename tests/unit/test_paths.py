"""Where artifacts lie: below the experiment's folder, or below that of the experiment that makes a trial's stage."""

import copy
from pathlib import Path

import pytest
from conftest import MINIATURE, SETTINGS, TASKS

from rpg.config.loading import check_params
from rpg.paths import Paths, ablation_file, paths_of

ABLATION = {
    "question": "Why?",
    "experiment": "mini",
    "seeds": [0, 1],
    "novelty": False,
    "variants": {"same": {}, "width": {"tokens.width": 32}},
}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("base.manifest", "base/manifest.json"),
        ("zoo.manifest", "zoo/{shard}/manifest.json"),
        ("collect.checkpoints", "zoo/checkpoints.json"),
        ("tokens.layout", "tokens/layout.json"),
        ("train.model", "rpg/model.safetensors"),
        ("train.seconds", "seconds/train.json"),
        ("tune.config", "tune/config.json"),
        ("hypernetwork.log", "hypernetwork/log.csv"),
        ("sample.manifest", "samples/manifest.json"),
        ("score.scores", "scores.json"),
        ("novelty.rows", "novelty.csv"),
    ],
)
def test_files(name: str, path: str) -> None:
    assert Paths("mini").file(name) == Path("results/mini") / path


def test_an_artifact_that_no_stage_writes() -> None:
    with pytest.raises(KeyError):
        Paths("mini").file("train.weights")


def test_folders() -> None:
    paths = Paths("mini", Path("elsewhere"))
    folders = {
        "base": "base", "zoo": "zoo", "collect": "zoo", "tokens": "tokens", "train": "rpg", "tune": "tune",
        "hypernetwork": "hypernetwork", "sample": "samples", "score": "", "novelty": "",
    }  # fmt: skip
    for stage, folder in folders.items():
        assert paths.folder(stage) == Path("elsewhere/mini") / folder
    assert paths.kept("score") == Path("elsewhere/mini/kept/score")
    assert paths.card == Path("elsewhere/mini/README.md")
    assert paths.config == Path("elsewhere/mini/config.yaml")
    assert ablation_file("why", Path("elsewhere")) == Path("elsewhere/why/ablation.json")


def test_the_model_that_samples_is_the_tuned_one() -> None:
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE, "tasks": TASKS}}
    params = check_params(copy.deepcopy(tree))
    assert paths_of(params, "mini").generator(params.experiment("mini")) == Path("results/mini/rpg")
    assert paths_of(params, "tasks").generator(params.experiment("tasks")) == Path("results/tasks/tune")


def test_a_stage_of_a_trial_is_made_by_the_first_experiment_with_its_blocks() -> None:
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE}, "ablations": {"why": ABLATION}}
    params = check_params(copy.deepcopy(tree))
    homes = {
        trial: {stage: str(paths_of(params, trial).home(stage)) for stage in ("zoo", "tokens", "train", "novelty")}
        for trial in params.trials("why")
    }
    mini, same, width = "results/mini", "results/why/same-1", "results/why/width-0"
    assert homes == {
        "why/same-0": {"zoo": mini, "tokens": mini, "train": mini, "novelty": mini},
        "why/same-1": {"zoo": mini, "tokens": mini, "train": same, "novelty": same},
        "why/width-0": {"zoo": mini, "tokens": width, "train": width, "novelty": width},
        "why/width-1": {"zoo": mini, "tokens": width, "train": "results/why/width-1", "novelty": "results/why/width-1"},
    }
    assert paths_of(params, "why/width-1").file("tokens.layout") == Path(width, "tokens/layout.json")
