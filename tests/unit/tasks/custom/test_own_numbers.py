"""A zoo of one's own with an error as its metric, the user's own facts as conditions, and a pattern as its runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GIVEN, POINTS, THEIRS, run_layers, write_given, write_tree
from safetensors.torch import load_file
from torch import nn

from rpg import generate
from rpg.cli import main
from rpg.config.loading import load_params
from rpg.tasks.custom.config import CustomTask
from rpg.utils.errors import UserError

LAYERS = ("zoo", "collect", "tokens", "train", "sample", "score", "novelty", "tables")
# So small that two decimals, or four, would leave nothing of it.
ERROR = """
def error(network, split):
    inputs, labels = points(split)
    return 1e-5 * nn.functional.mse_loss(network(inputs), nn.functional.one_hot(labels, 3).float())
"""
FACTS = "checkpoint,rate,kind\n" + "".join(
    f"zoo/{run}/epoch-{epoch}.pth,{epoch / 10},{'slow' if epoch < 10 else 'fast'}\n"
    for run in "ab"
    for epoch in (8, 9, 10)
)
VECTORS = [
    {"kind": "permutation_state", "reach": "all", "dropout": 0.0},
    {"kind": "vector", "field": "rate", "hidden": 8, "reach": "all"},
    {"kind": "vector", "field": "kind", "hidden": None, "reach": "all"},
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the given zoo, an error to score it by, and facts; nothing has run."""
    write_given(tmp_path)
    (tmp_path / "theirs/network.py").write_text(THEIRS + ERROR)
    (tmp_path / "facts.csv").write_text(FACTS)
    monkeypatch.chdir(tmp_path)
    change()
    return tmp_path


def change(**blocks: dict) -> None:
    """params.yaml with other values in these blocks."""
    write_tree(Path(), given={name: {**block, **blocks.get(name, {})} for name, block in GIVEN.items()})


def fault(capsys: pytest.CaptureFixture, *verbs: str) -> str:
    """The one line with which the last verb leaves."""
    with pytest.raises(SystemExit) as left:
        run_layers(Path(), *verbs, experiment="given")
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rpg: error: ")]
    return line.removeprefix("rpg: error: ")


def scored_error(path: Path) -> float:
    """The error of a state dict on the test split, by plain torch."""
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    network.load_state_dict(load_file(path))
    scope: dict = {}
    exec(POINTS, scope)
    inputs, labels = scope["points"]("test")
    with torch.no_grad():
        return 1e-5 * nn.functional.mse_loss(network(inputs), nn.functional.one_hot(labels, 3).float()).item()


def test_an_error_is_better_where_it_is_smaller(here: Path, capsys: pytest.CaptureFixture) -> None:
    change(task={"score": "theirs.network:error", "metric": "mse", "unit": "m", "lower_is_better": True})
    run_layers(here, *LAYERS, experiment="given")
    results = here / "results/given"
    scores = json.loads((results / "scores.json").read_text())
    assert (scores["unit"], scores["lower_is_better"]) == ("m", True)
    by_kind = {
        kind: [scored_error(results / folder / entry["file"]) for entry in scores[kind]]
        for kind, folder in (("original", "zoo"), ("rpg", "samples"))
    }
    test = json.loads((results / "test.json").read_text())
    for kind, errors in by_kind.items():
        assert [entry["test"] for entry in scores[kind]] == pytest.approx(errors, rel=1e-5)
        assert test[kind]["best"] == pytest.approx(min(errors), rel=1e-4)
        assert test[kind]["min"] == pytest.approx(max(errors), rel=1e-4)
        assert test[kind]["mean"] == pytest.approx(np.mean(errors), rel=1e-4)
        low, high = test[kind]["interval"]
        assert low < test[kind]["mean"] < high
    above = test["differences"]["original"]["all"]["mean"]
    assert above == pytest.approx(np.mean(by_kind["rpg"]) - np.mean(by_kind["original"]), rel=1e-3)
    # A share is the originals' mean over the score.
    rows = pd.read_csv(results / "novelty.csv").set_index("file")
    for entry in scores["rpg"]:
        share = np.mean(by_kind["original"]) / entry["test"]
        assert rows.loc[entry["file"], "relative"] == pytest.approx(share, rel=1e-4)
        assert rows.loc[entry["file"], "test"] == pytest.approx(entry["test"], rel=1e-5)
    tables = Path("results/tables.md").read_text()
    assert "\nmse in m on the test split, over all n networks;" in tables
    assert "where lower is better, *best* is the smallest score" in tables
    assert "or its inverse if lower is better" in tables
    row = next(line for line in tables.splitlines() if line.startswith("| given "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "mse (m, lower is better)"
    # The table rounds what test.json has rounded to six digits.
    assert cells[4] == f"{test['original']['best']:#.4g}"
    assert cells[7:9] == [f"{test['rpg']['min']:#.4g}", f"{test['rpg']['best']:#.4g}"]
    card = (results / "README.md").read_text()
    assert "The mse in m on the test split" in card
    assert "largest (min, the worst) and smallest (best)." in card
    assert f"{test['rpg']['mean']:#.4g}" in card
    capsys.readouterr()
    main(["score", "--experiment", "given", "--weights", "results/given/samples/0001.safetensors"])
    assert capsys.readouterr().out == f"results/given/samples/0001.safetensors: mse {by_kind['rpg'][1]:#.4g} m\n"
    main(["show"])
    shown = capsys.readouterr().out
    assert "Scores in percent, or as the metric says, on the test split." in shown
    config = Path("results/given/zoo/0000-0000/manifest.json").read_text()
    assert '"lower_is_better": true' in config


@pytest.mark.parametrize(
    ("result", "keys", "line"),
    [
        (
            "torch.arange(3), torch.arange(3)",
            {"unit": "dB"},
            "returns (answers, targets), whose score is the accuracy in percent; remove task.unit",
        ),
        (
            "torch.arange(3), torch.arange(3)",
            {"unit": "", "lower_is_better": True},
            "the accuracy in percent; remove task.unit and task.lower_is_better",
        ),
        ("float('nan')", {"unit": "dB"}, "must return a finite number, not nan"),
        ("float('-inf')", {"unit": "dB"}, "must return a finite number, not -inf"),
        ("'good'", {"unit": "dB"}, "must return a number, not good"),
        ("-1.0", {}, "must return a percentage from 0 to 100, not -1.0; give another unit in task.unit"),
        ("101.0", {"lower_is_better": True}, "must return a percentage from 0 to 100, not 101.0"),
    ],
)
def test_a_score_that_does_not_fit_its_unit_is_one_line(
    here: Path, capsys: pytest.CaptureFixture, result: str, keys: dict, line: str
) -> None:
    (here / "theirs/network.py").write_text(f"{THEIRS}\ndef score(network, split):\n    return {result}\n")
    change(task=keys)
    assert line in fault(capsys, "zoo")


@pytest.mark.parametrize("score", [-250.0, 0.0, 31.5, 1e6])
def test_any_finite_number_is_a_score(here: Path, score: float) -> None:
    (here / "theirs/network.py").write_text(f"{THEIRS}\ndef score(network, split):\n    return {score}\n")
    change(task={"unit": ""})
    run_layers(here, "zoo", experiment="given")
    manifest = json.loads(Path("results/given/zoo/0000-0000/manifest.json").read_text())
    assert [entry["validation_accuracy"] for entry in manifest["checkpoints"]] == [score] * 3


def test_a_percentage_writes_none_of_the_keys(here: Path) -> None:
    change(task={"unit": "percent", "lower_is_better": False})
    task = load_params().experiment("given").task
    assert not task.model_dump().keys() & {"unit", "lower_is_better"}
    assert isinstance(task, CustomTask)
    assert (task.unit, task.lower_is_better) == ("percent", False)


def test_facts_become_conditions(here: Path, capsys: pytest.CaptureFixture) -> None:
    change(zoo={"facts": "facts.csv"}, model={"conditions": VECTORS})
    run_layers(here, "zoo", "collect", "tokens", "train", experiment="given")
    assert "zoo: facts.csv: the numbers of 'kind' stand for fast, slow" in capsys.readouterr().out
    checkpoints = json.loads(Path("results/given/zoo/checkpoints.json").read_text())["checkpoints"]
    assert [(entry["rate"], entry["kind"]) for entry in checkpoints] == 2 * [
        (0.8, [0.0, 1.0]),
        (0.9, [0.0, 1.0]),
        (1.0, [1.0, 0.0]),
    ]
    manifest = json.loads(Path("results/given/zoo/0001-0001/manifest.json").read_text())
    assert manifest["summary"]["classes"] == {"kind": ["fast", "slow"]}
    asked = ["--vector", "rate=0.95", "--vector", "kind=0,1"]
    main(["generate", "--experiment", "given", "--state", "1", *asked, "--out", "one.safetensors"])
    main(["generate", "--experiment", "given", "--state", "1", *asked, "--out", "two.safetensors"])
    main(["generate", "--experiment", "given", "--state", "1", *asked[:3], "kind=1,0", "--out", "other.safetensors"])
    one, two, other = (load_file(f"{name}.safetensors") for name in ("one", "two", "other"))
    assert torch.equal(one["0.weight"], two["0.weight"])
    assert not torch.equal(one["0.weight"], other["0.weight"])
    assert capsys.readouterr().err.count("look: ") == 0
    main(["generate", "--experiment", "given", "--vector", "rate=2", "--out", "far.safetensors"])
    assert capsys.readouterr().err == "look: rate=2 is outside of 0.8 to 1, the zoo's range; RPG guesses\n"
    with pytest.warns(UserWarning, match="rate=0 is outside of 0.8 to 1"):
        generate("given", vectors={"rate": [0.0]})
    with pytest.raises(SystemExit):
        main(["generate", "--experiment", "given", "--vector", "kind=1", "--out", "bad.safetensors"])
    assert "--vector kind: must have 2 numbers, not 1" in capsys.readouterr().err


def test_an_unknown_vector_is_told_by_the_zoo(here: Path, capsys: pytest.CaptureFixture) -> None:
    conditions = [{"kind": "vector", "field": "speed", "hidden": None, "reach": "all"}]
    change(zoo={"facts": "facts.csv"}, model={"conditions": conditions})
    assert fault(capsys, "zoo") == (
        "params.yaml: model.conditions: a checkpoint of this zoo has no number 'speed';"
        " known: held_out, kind, rate, seed, step, validation_accuracy"
    )
    change()
    run_layers(here, "zoo", experiment="given")
    change(model={"conditions": conditions})
    assert fault(capsys, "collect") == (
        "params.yaml: model.conditions: 0000-0000/0000-000000.safetensors has no number 'speed';"
        " known: held_out, seed, step, validation_accuracy"
    )


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "zoo/a/epoch-9.pth,0.9,slow\n",
            "",
            "facts.csv: no row for the checkpoint zoo/a/epoch-9.pth; add one",
        ),
        (
            "zoo/a/epoch-9.pth",
            "zoo/a/epoch-7.pth",
            "facts.csv: line 3: 'zoo/a/epoch-7.pth' is no checkpoint of the run zoo/a; correct or remove the row",
        ),
        ("zoo/b/epoch-9.pth", "zoo/c/epoch-9.pth", "facts.csv: line 6: 'zoo/c/epoch-9.pth' is in no run of zoo.runs"),
        ("rate", "validation_accuracy", "facts.csv: column 'validation_accuracy': a checkpoint has a key of this name"),
    ],
)
def test_a_table_that_does_not_fit_the_zoo_is_one_line(
    here: Path, capsys: pytest.CaptureFixture, old: str, new: str, line: str
) -> None:
    Path("facts.csv").write_text(FACTS.replace(old, new))
    change(zoo={"facts": "facts.csv"})
    assert line in fault(capsys, "zoo")
    assert not Path("results/given/zoo/0000-0000/manifest.json").exists()


def test_the_table_is_an_input_of_every_shard(here: Path) -> None:
    before = load_params().experiment("given")
    change(zoo={"facts": "facts.csv"})
    experiment = load_params().experiment("given")
    for runs in experiment.shards().values():
        assert Path("facts.csv") in experiment.task.shard_reads(experiment.zoo, runs)
    (reads,) = experiment.task.zoo_reads(experiment.zoo).values()
    assert reads == [Path("zoo/a"), Path("zoo/b"), Path("facts.csv")]
    assert before.task.zoo_reads(before.zoo).keys() != experiment.task.zoo_reads(experiment.zoo).keys()
    Path("facts.csv").unlink()
    assert experiment.task.missing(experiment, None, ["zoo"]) == ["facts.csv: no such table; correct zoo.facts"]
    assert Path("facts.csv") not in experiment.task.shard_reads(experiment.zoo, runs)


def test_a_pattern_is_its_matches_everywhere(here: Path, capsys: pytest.CaptureFixture) -> None:
    listed = load_params().experiment("given")
    change(zoo={"runs": ["zoo/*"]})
    experiment = load_params().experiment("given")
    assert experiment.zoo.names == ["zoo/a", "zoo/b"]
    assert experiment.shards() == listed.shards()
    assert experiment.task.zoo_reads(experiment.zoo) == listed.task.zoo_reads(listed.zoo)
    run_layers(here, "zoo", "collect", experiment="given")
    # Each file is a run.
    change(zoo={"runs": ["zoo/**/epoch-*.pth"], "runs_per_shard": 6})
    runs = load_params().experiment("given").zoo.names
    assert runs == [f"zoo/{run}/epoch-{epoch}.pth" for run in "ab" for epoch in (8, 9, 10)]
    run_layers(here, "zoo", experiment="given")
    manifest = json.loads(Path("results/given/zoo/0000-0005/manifest.json").read_text())
    assert [(entry["seed"], entry["step"]) for entry in manifest["checkpoints"]] == [(seed, 0) for seed in range(6)]
    # Other experiments of params.yaml still load.
    change(zoo={"runs": ["zoo/none-*"]})
    experiment = load_params().experiment("given")
    assert experiment.task.missing(experiment, None, ["zoo"]) == ["zoo/none-*: no such checkpoints; correct zoo.runs"]
    line = "params.yaml: zoo.runs: nothing matches 'zoo/none-*'; a path starts at the folder of params.yaml"
    assert fault(capsys, "zoo") == line
    change(zoo={"runs": ["zoo/none-*"]}, sample={"between": 2})
    with pytest.raises(UserError, match=r"nothing matches 'zoo/none-\*', but sample.between needs two runs or more"):
        load_params()
