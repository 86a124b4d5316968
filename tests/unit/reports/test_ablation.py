import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MINIATURE, ROOT, run_layers, write_tree

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.paths import Paths, paths_of
from rpg.reports.ablations import HEADING
from rpg.reports.artifacts import AblationResult
from rpg.reports.tables import ablation
from rpg.stages import OPTIONAL, STAGES, decides

ABLATION = {
    "question": "Does it matter?",
    "experiment": "mini",
    "seeds": [0, 1],
    "novelty": True,
    "variants": {
        "same": {},
        "steps": {"sample.steps": 1, "sample.between": 2},
        "width": {"tokens.width": 32},
        "one": {"zoo.seeds": [0], "model.conditions": [{"kind": "unconditional"}]},
    },
}


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an ablation of the miniature has run."""
    folder = tmp_path_factory.mktemp("ablated")
    write_tree(folder, mini=MINIATURE)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(
        yaml.safe_dump({**tree, "run": ["mini", "why"], "ablations": {"why": ABLATION}}, sort_keys=False)
    )
    params = load_params(folder / "params.yaml")
    done = set()
    for name in ["mini", *params.trials("why")]:
        paths = paths_of(params, name)
        for stage in STAGES:
            if stage in OPTIONAL or (maker := (stage, paths.home(stage))) in done:
                continue
            done.add(maker)
            run_layers(folder, stage, experiment=name)
    run_layers(folder, "ablation", experiment="why")
    run_layers(folder, "ablations", "tables")
    return folder


def test_what_trials_share_is_made_once(ablated: Path) -> None:
    params = load_params(ablated / "params.yaml")

    def makers(trial: str) -> list[str]:
        paths = paths_of(params, f"why/{trial}", ablated / "results")
        return [
            str(paths.home(stage).relative_to(ablated / "results")).removeprefix("why/")
            for stage in ("zoo", "tokens", "train", "sample", "score")
        ]

    assert makers("same-0") == ["mini"] * 5
    assert makers("same-1") == ["mini", "mini", "same-1", "same-1", "same-1"]
    assert makers("steps-0") == ["mini", "mini", "mini", "steps-0", "steps-0"]
    assert makers("steps-1") == ["mini", "mini", "same-1", "steps-1", "steps-1"]
    assert makers("width-1") == ["mini", "width-0", "width-1", "width-1", "width-1"]
    assert makers("one-1") == ["one-0", "one-0", "one-1", "one-1", "one-1"]
    # Nothing else was made.
    assert {path.parent.name for path in (ablated / "results/why").glob("*/zoo")} == {"one-0"}
    assert {path.parent.name for path in (ablated / "results/why").glob("*/tokens")} == {"width-0", "one-0"}
    assert paths_of(params, "mini") == Paths("mini")


def test_every_block_decides_a_stage() -> None:
    """A block that no stage names would be shared by trials that differ in it, as what a cluster gives may be."""
    from rpg.config.experiment import Experiment

    assert {block for stage in STAGES for block in decides(stage)} == set(Experiment.model_fields) - {"cluster"}


def test_summary_is_over_all_networks_of_all_seeds(ablated: Path) -> None:
    variants = json.loads((ablated / "results/why/ablation.json").read_text())["variants"]
    tree = {entry["variant"]: entry for entry in variants}
    tests = [
        [
            network["test"]
            for network in json.loads((ablated / f"results/{trial}/scores.json").read_text())["rpg"]
            if "between" not in network
        ]
        for trial in ("mini", "why/same-1")
    ]
    found = tree["same"]["sets"]["all"]
    assert found["rpg"]["n"] == 8
    assert found["rpg"]["mean"] == pytest.approx(np.mean(tests), abs=1e-4)
    assert found["rpg"]["std"] == pytest.approx(np.std(tests, ddof=1), abs=1e-4)
    assert found["by_seed"] == pytest.approx([np.mean(part) for part in tests], abs=1e-4)
    # Originals once, not once for each training of RPG.
    assert found["original"]["n"] == 6
    assert tree["steps"]["sets"]["between"]["rpg"]["n"] == 4
    assert tree["one"]["sets"]["all"]["original"]["n"] == 2
    rows = [pd.read_csv(ablated / f"results/{trial}/novelty.csv") for trial in ("mini", "why/same-1")]
    ours = pd.concat(rows).query("networks == 'RPG'")
    assert found["novelty"]["rpg"] == pytest.approx(ours["aligned"].median(), abs=1e-4)
    assert found["novelty"]["original"] == pytest.approx(
        rows[0].query("networks == 'original'")["aligned_across"].median(), abs=1e-4
    )


def test_tables_show_it(ablated: Path) -> None:
    text = (ablated / "results/ablations.md").read_text()
    section = text[text.index("\n## why, of mini\n") :]
    assert "Does it matter?" in section
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")][2:]
    assert rows == ["same", "steps", "steps, between states", "width", "one"]
    # An ablation in `run` stands in the tables of all, too.
    assert section in (ablated / "results/tables.md").read_text()
    tree = json.loads((ablated / "results/ablations.json").read_text())
    assert json.loads((ablated / "results/metrics.json").read_text())["ablations"] == tree


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"question": 3}, "ablations.why.question: input should be a valid string, not 3"),
        ({"experiment": "minu"}, "ablations.why.experiment: no experiment 'minu'; did you mean 'mini'?"),
        ({"variants": {"a": {"model.with": 3}}}, "ablations.why.variants.a: the experiment has no key 'model.with'"),
        ({"variants": {"a": {"tune.steps": 3}}}, "ablations.why.variants.a: the experiment has no key 'tune.steps'"),
        ({"variants": {"a": {"model.backbone.kind": "gru"}}}, "ablations.why.variants.a: model.backbone: "),
        ({"variants": {"../a": {}}}, "String should match pattern|string should match pattern"),
        ({"seeds": []}, "ablations.why.seeds: list should have at least 1 item"),
        ({"seeds": [1, 1]}, "seeds: a seed is listed twice; remove one"),
    ],
)
def test_faults_are_named(tmp_path: Path, changes: dict, fault: str, capsys: pytest.CaptureFixture) -> None:
    write_tree(tmp_path, mini=MINIATURE)
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**tree, "ablations": {"why": {**ABLATION, **changes}}}))
    with pytest.raises(SystemExit) as stop:
        run_layers(tmp_path, "tables")
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(fault if "|" in fault else re.escape(fault), line), line


def test_names_that_are_no_ablation(ablated: Path, capsys: pytest.CaptureFixture) -> None:
    for verb, name, fault in (
        ("ablation", "mini", "no ablation 'mini'"),
        ("train", "why/same-2", "no experiment 'why/same-2'; did you mean 'why/same-1'?"),
        ("train", "why", "no experiment 'why'"),
    ):
        with pytest.raises(SystemExit):
            run_layers(ablated, verb, experiment=name)
        assert fault in capsys.readouterr().err


def test_a_trial_can_be_asked_for_networks(ablated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ablated)
    for trial in ("same-1", "one-0"):
        out = tmp_path / f"{trial}.safetensors"
        main(["generate", "--experiment", f"why/{trial}", "--out", str(out)])
        assert out.is_file()


def test_committed_ablations_are_those_of_params() -> None:
    params, text = load_params(ROOT / "params.yaml"), (ROOT / "results/ablations.md").read_text()
    assert text.startswith(HEADING)
    heads = [(name, of.experiment, of.question) for name, of in params.ablations.items()]
    assert re.findall(r"^## (.*), of (.*)\n\n(.*)\n", text, re.M) == heads
    for name, of in params.ablations.items():
        section = text[text.index(f"\n## {name}, of ") :].removeprefix("\n").partition("\n## ")[0]
        rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")][2:]
        assert list(dict.fromkeys(row.partition(", ")[0] for row in rows)) == list(of.variants)
    # DVC's: a fresh clone has it after `rpg ledger pull`.
    if (ROOT / "results/ablations.json").is_file():
        trees = json.loads((ROOT / "results/ablations.json").read_text())
        assert sorted(trees) == sorted(params.ablations)
        sections = [
            ablation(name, of.question, of.experiment, AblationResult.model_validate(trees[name]))
            for name, of in params.ablations.items()
        ]
        assert text == HEADING + "".join(sections)
