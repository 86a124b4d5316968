"""What every benchmark's configuration answers, and what follows from it for runs, files and code."""

from pathlib import Path

import pytest
from conftest import ADAPTERS, GIVEN, MINIATURE, ROOT, SCENES, TASKS, write_given

from rpg.config.experiment import Experiment, parse_experiment
from rpg.config.loading import load_params
from rpg.tasks.config import Run
from rpg.utils import task_codes

TREES = {tree["task"]["kind"]: tree for tree in (MINIATURE, TASKS, SCENES, ADAPTERS, GIVEN)}
TREES["fine_tuning"] = load_params(ROOT / "params.yaml").experiment("imagenet-resnet18").model_dump()
TREES["detection"] = {
    **SCENES,
    "task": {**SCENES["task"], "kind": "detection", "config": str(ROOT / "workflow/configs/scenes-vitdet.py")},
}


def experiment(kind: str) -> Experiment:
    return parse_experiment(TREES[kind])


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("classification", ("digits", "scikit-learn's digits", False, False, True)),
        ("task_codes", ("digits", "scikit-learn's digits", True, False, True)),
        ("segmentation", ("scenes", "scenes of scikit-learn's digits", False, False, True)),
        ("detection", ("scenes", "scenes of scikit-learn's digits", False, False, True)),
        ("commonsense", ("facts", "questions on a generated world of facts", False, True, True)),
        ("fine_tuning", ("imagenet", "ImageNet-1K", False, False, True)),
        ("custom", ("custom", "data of their own", False, None, False)),
    ],
)
def test_facts_of_a_benchmark(kind: str, facts: tuple) -> None:
    task, zoo = experiment(kind).task, experiment(kind).zoo
    assert (task.dataset, task.dataset_title, task.has_codes, task.adapters, zoo.trained_here) == facts
    assert task.has_pictures == (kind in ("segmentation", "detection"))
    assert task.needs_base == (kind == "fine_tuning")


@pytest.mark.parametrize("kind", TREES)
def test_code_of_a_benchmark_exists(kind: str) -> None:
    code = experiment(kind).task.code()
    assert code
    assert len(set(code)) == len(code)
    for file in code:
        assert (ROOT / file).exists(), file


def test_runs_are_the_seeds() -> None:
    assert experiment("classification").runs() == {seed: Run(seed=seed, code=None, held_out=False) for seed in range(3)}
    assert str(Run(seed=3, code=None, held_out=False)) == "seed 3"
    assert str(Run(seed=3, code="01", held_out=False)) == "seed 3, code 01"


def test_runs_of_task_codes_are_all_pairs() -> None:
    runs = experiment("task_codes").runs()
    held_out, seen = experiment("task_codes").task.held_out_codes(), experiment("task_codes").task.seen_codes()
    assert held_out == [task_codes.of_number(314), task_codes.of_number(482)]
    assert [(run.seed, run.code) for run in runs.values()] == [
        (seed, code) for seed in (0, 1) for code in [*held_out, *seen]
    ]
    assert list(runs) == [seed * 1024 + index for seed in (0, 1) for index in range(8)]
    assert experiment("classification").task.held_out_codes() == []


def test_runs_of_a_given_zoo_are_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_given(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = experiment("custom")
    assert [(run.seed, given.zoo.run_facts(run)) for run in given.runs().values()] == [
        (0, {"folder": "zoo/a"}),
        (1, {"folder": "zoo/b"}),
    ]
    assert given.zoo.saves is None
    files = [Path(f"zoo/b/epoch-{epoch}.pth") for epoch in (10, 8, 9)]
    assert given.task.shard_reads(given.zoo, [given.runs()[1]]) == files
    reads = given.task.reads("score", given)
    own = [Path("theirs/data.py"), Path("theirs/network.py")]
    assert reads == {"theirs-network-build-theirs-network-score": own}
    assert list(given.task.reads("sample", given)) == ["theirs-network-build"]


def test_a_recipe_is_that_of_its_own_runs() -> None:
    """Another seed, or another seen code, changes the recipe of no other shard."""
    few, more = experiment("classification"), parse_experiment({**MINIATURE, "zoo": {**MINIATURE["zoo"], "seeds": [0]}})
    run = few.runs()[0]
    assert few.recipe([run]) == more.recipe([run])
    assert few.recipe([run]) != few.recipe([few.runs()[1]])
    assert few.recipe([run])["zoo"]["runs"] == [{"seed": 0, "code": None, "held_out": False}]
    assert "seeds" not in few.recipe([run])["zoo"]
    assert not {"seen", "draw", "held_out", "held_out_pairs"} & experiment("task_codes").recipe([run])["task"].keys()


def test_runs_at_once() -> None:
    assert experiment("task_codes").zoo.runs_at_once() == 3
    assert experiment("segmentation").zoo.runs_at_once() == 1


def test_files_that_a_config_names() -> None:
    task = experiment("segmentation").task
    assert task.check_files() is None
    assert task.reads("zoo", experiment("segmentation")) == {"scenes-upernet": [Path(SCENES["task"]["config"])]}
    lost = task.model_copy(update={"config": "nowhere.py"})
    assert lost.check_files() == "task.config: no file 'nowhere.py'"
    # One that the toolbox ships is as fixed as its version.
    shipped = task.model_copy(update={"config": "mmseg::x/y.py"})
    assert shipped.check_files() is None
    assert shipped.reads("zoo", experiment("segmentation")) == {}


def test_a_language_model_that_another_experiment_makes() -> None:
    own = experiment("commonsense")
    assert own.task.borrowed_base() == "adapters"
    assert own.task.reads("zoo", own) == {"adapters-base-0000": []}
    borrowing = own.model_copy(update={"base": None})
    manifest = [Path("results/adapters/base/manifest.json")]
    for stage in ("zoo", "score", "novelty"):
        assert borrowing.task.reads(stage, borrowing) == {"adapters-base-0000": manifest}
    assert borrowing.task.reads("sample", borrowing) == {}
    hub = own.task.model_copy(update={"model": "some/model"})
    assert hub.borrowed_base() is None
    assert hub.reads("zoo", own) == {}
    assert experiment("classification").task.borrowed_base() is None


def test_weights_that_a_zoo_starts_from(tmp_path: Path) -> None:
    tuned = experiment("fine_tuning")
    assert tuned.task.reads("base", tuned) == {}
    weights = tmp_path / "w.pth"
    weights.touch()
    given = tuned.model_copy(update={"base": tuned.base.model_copy(update={"weights": str(weights)})})
    assert given.task.reads("base", given) == {"weights": [weights]}
    assert given.task.reads("zoo", given) == {}
