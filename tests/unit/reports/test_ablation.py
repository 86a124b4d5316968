import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MINIATURE, ROOT, TASKS, run_layers, write_tree
from scipy.stats import t

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.paths import Paths, paths_of
from rpg.reports.ablation import summarize
from rpg.reports.ablation_table import ablation, conclusions
from rpg.reports.ablations import HEADING
from rpg.reports.artifacts import AblationResult
from rpg.stages import OPTIONAL, STAGES, decides
from rpg.utils.files import write_sealed

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
    found = tree["same"]["sets"]["all"]
    for split in ("validation", "test"):
        scores = [
            [
                network[split]
                for network in json.loads((ablated / f"results/{trial}/scores.json").read_text())["rpg"]
                if "between" not in network
            ]
            for trial in ("mini", "why/same-1")
        ]
        of_split = found[split]
        assert of_split["rpg"]["n"] == 8
        assert of_split["rpg"]["mean"] == pytest.approx(np.mean(scores), abs=1e-4)
        assert of_split["rpg"]["std"] == pytest.approx(np.std(scores, ddof=1), abs=1e-4)
        # Choices are made by the means on the validation split.
        by_seed = [np.mean(part) for part in scores]
        assert (found["by_seed"] == pytest.approx(by_seed, abs=1e-4)) == (split == "validation")
        # Originals once, not once for each training of RPG.
        assert of_split["original"]["n"] == 6
        assert tree["steps"]["sets"]["between"][split]["rpg"]["n"] == 4
        assert tree["one"]["sets"]["all"][split]["original"]["n"] == 2
    # A zoo of one run has no interval, nor a distance between runs.
    one = tree["one"]["sets"]["all"]
    assert "interval" not in one["test"]["original"]
    assert one["novelty"]["verdict"] == "one run"
    assert "original" not in one["novelty"]
    rows = [pd.read_csv(ablated / f"results/{trial}/novelty.csv") for trial in ("mini", "why/same-1")]
    verdicts = [
        json.loads((ablated / f"results/{trial}/novelty.json").read_text())["rpg"]["all"]["verdict"]
        for trial in ("mini", "why/same-1")
    ]
    assert found["novelty"]["verdict"] == ", ".join(dict.fromkeys(verdicts))
    ours = pd.concat(rows).query("networks == 'RPG'")
    assert found["novelty"]["rpg"] == pytest.approx(ours["aligned"].median(), abs=1e-4)
    assert found["novelty"]["original"] == pytest.approx(
        rows[0].query("networks == 'original'")["aligned_across"].median(), abs=1e-4
    )


# Of an ablation with rivals: two variants and two seeds, in experiments with task codes.
RIVALS = {
    "question": "Who wins?",
    "experiment": "tasks",
    "seeds": [0, 1],
    "novelty": False,
    "baselines": True,
    "variants": {"first": {}, "second": {"sample.steps": 4}},
}
CODES = {"seen": ["0101010101", "0011001100", "1110001110"], "held_out": ["0000011111", "1010101010", "1111100000"]}
# Kind → set → (validation, test) of the first variant. The second variant and the second seed add to RPG's scores.
MEANS = {
    "original": {"seen": (99, 99), "held_out": (99, 99)},
    "rpg": {"seen": (95, 95), "held_out": (90, 93)},
    "rpg_recounted": {"seen": (70, 70), "held_out": (70, 70)},
    "hypernetwork": {"seen": (94, 94), "held_out": (80, 85)},
    "ridge": {"seen": (90, 96.5), "held_out": (85, 80)},
}
# The second variant is better on validation and worse on test.
SECOND = {"seen": (1, 0), "held_out": (2, -1)}


def networks(kind: str, variant: str, seed: int) -> list[dict]:
    """Three networks of each set, one of each code, that are 1 apart, and a seed 0.5 above the other."""
    entries = []
    for name, (validation, test) in MEANS[kind].items():
        for index, code in enumerate(CODES[name]):
            more = np.array([index - 1.0] * 2)
            if kind in ("rpg", "hypernetwork"):
                more += 0.5 * seed
            if kind == "rpg" and variant == "second":
                more += SECOND[name]
            entry = {"code": code, "set": name, "state": 0, "validation": validation + more[0], "test": test + more[1]}
            entries.append({**entry, "file": f"{kind}-{code}", "sha256": "0"})
    return entries


def summarize_scores(folder: Path) -> None:
    """Write the scores that the ablation `rivals` reads, from MEANS, and its summary."""
    params = load_params(folder / "params.yaml")
    for variant in RIVALS["variants"]:
        for seed in RIVALS["seeds"]:
            paths = paths_of(params, f"rivals/{variant}-{seed}", folder / "results")
            kinds = {kind: networks(kind, variant, seed) for kind in MEANS}
            write_sealed(paths.file("score.scores"), {"metric": "top1", "parameters": 9, **kinds, "files": []})
            write_sealed(paths.file("train.config"), {"parameters": 7})
    summarize(params, "rivals", folder / "results")


@pytest.fixture
def rivals(tmp_path: Path) -> Path:
    """A folder with the scores that the ablation `rivals` reads."""
    write_tree(tmp_path, tasks=TASKS)
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**tree, "ablations": {"rivals": RIVALS}}, sort_keys=False))
    summarize_scores(tmp_path)
    return tmp_path


def read_ablation(folder: Path) -> dict:
    return json.loads((folder / "results/rivals/ablation.json").read_text())


def test_best_variant_is_chosen_on_the_validation_split_of_held_out_tasks(rivals: Path) -> None:
    tree = read_ablation(rivals)
    first, second = (variant["sets"]["held_out"] for variant in tree["variants"])
    assert [first[split]["rpg"]["mean"] for split in ("validation", "test")] == [90.25, 93.25]
    assert [second[split]["rpg"]["mean"] for split in ("validation", "test")] == [92.25, 92.25]
    assert (first["by_seed"], second["by_seed"]) == ([90.0, 90.5], [92.0, 92.5])
    assert tree["best"] == "second"


def test_rpg_with_recounted_statistics_is_a_way_of_rpg(rivals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the best one, is never a rival, and stands beside its variant."""
    monkeypatch.setitem(MEANS, "rpg_recounted", {"seen": (96, 96), "held_out": (97, 98)})
    summarize_scores(rivals)
    tree = read_ablation(rivals)
    assert tree["best"] == "first, BatchNorm recounted"
    assert tree["variants"][0]["sets"]["held_out"]["recounted"]["mean"] == 97.0
    found = {rival["kind"]: rival["sets"] for rival in tree["rivals"]}
    assert list(found) == ["original", "hypernetwork", "ridge"]
    assert found["ridge"]["held_out"]["above"]["mean"] == 98.0 - 80.0


def test_the_smallest_error_is_the_best_variant(rivals: Path) -> None:
    for path in (rivals / "results").rglob("scores.json"):
        tree = {key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}
        write_sealed(path, {**tree, "unit": "m", "lower_is_better": True})
    summarize(load_params(rivals / "params.yaml"), "rivals", rivals / "results")
    tree = read_ablation(rivals)
    # Means of 90.25 and 92.25.
    assert tree["best"].startswith("first")
    assert (tree["unit"], tree["lower_is_better"]) == ("m", True)
    scored = tree["variants"][0]["sets"]["held_out"]["validation"]["rpg"]
    assert scored["best"] < scored["mean"] < scored["min"]


def test_rivals_are_all_methods_but_rpg_itself(rivals: Path) -> None:
    found = {rival["kind"]: rival["sets"] for rival in read_ablation(rivals)["rivals"]}
    assert list(found) == ["original", "hypernetwork", "ridge"]
    # What is trained anew with each seed counts with each, everything else once.
    assert {kind: sets["seen"]["test"]["n"] for kind, sets in found.items()} == {
        "original": 3,
        "hypernetwork": 6,
        "ridge": 3,
    }
    assert found["hypernetwork"]["held_out"]["by_seed"] == [80.0, 80.5]
    assert found["ridge"]["held_out"]["by_seed"] == [85.0]
    assert found["ridge"]["held_out"]["validation"]["mean"] == 85.0


def test_difference_from_a_rival_by_hand(rivals: Path) -> None:
    """The codes are paired and differ by nothing; what is left is the variance over the two trainings of RPG."""
    found = {rival["kind"]: rival["sets"] for rival in read_ablation(rivals)["rivals"]}
    above = found["ridge"]["held_out"]["above"]
    assert above["mean"] == 92.25 - 80
    # Means of trainings, 0.5 apart: a variance of 0.125 in two, one degree of freedom.
    reach = t.ppf(0.975, 1) * np.sqrt(0.125 / 2)
    assert above["interval"] == pytest.approx([12.25 - reach, 12.25 + reach], abs=1e-3)
    # Both are trained twice: two such variances, by Satterthwaite of two degrees of freedom.
    above = found["hypernetwork"]["held_out"]["above"]
    reach = t.ppf(0.975, 2) * np.sqrt(2 * 0.125 / 2)
    assert above["interval"] == pytest.approx([7 - reach, 7 + reach], abs=1e-3)


def test_rivals_stand_below_the_variants_with_a_conclusion(rivals: Path) -> None:
    tree = AblationResult.model_validate(read_ablation(rivals))
    section = ablation("rivals", "Who wins?", "tasks", tree)
    tables = [part for part in section.split("\n\n") if part.startswith("|")]
    variants, below = ([line.split("|")[1].strip() for line in part.splitlines()[2:]] for part in tables)
    assert variants == ["first, seen", "first, held-out", "second, seen", "second, held-out"]
    names = ["trained for the task", "hypernetwork, task loss only", "ridge regression, bits"]
    assert below[:6] == [f"{name}, {key}" for key in ("seen", "held-out") for name in names]
    assert "RPG (second) − it, test" in tables[1]
    # Ridge is the best rival for seen tasks on the test split, though not on the validation split. It is also the best
    # of the rivals that know the zoo alone.
    seen, seen_zoo, held_out, held_out_zoo = conclusions(tree)
    assert section.endswith("\n" + "\n".join([seen, seen_zoo, held_out, held_out_zoo]) + "\n")
    ridge = "The best rival is *ridge regression, bits*; RPG (second) minus it is"
    assert seen == f"- seen: neither wins. {ridge} -1.25 [-4.43, +1.93] points."
    assert (
        seen_zoo == f"- seen, beside rivals that know the zoo alone: neither wins. {ridge} -1.25 [-4.43, +1.93] points."
    )
    assert held_out == (
        "- held-out: RPG wins. The best rival is *hypernetwork, task loss only*; RPG (second) minus it is"
        " +7.00 [+5.48, +8.52] points."
    )
    assert held_out_zoo.startswith(f"- held-out, beside rivals that know the zoo alone: RPG wins. {ridge} +12.25")


@pytest.mark.parametrize(
    ("above", "outcome"),
    [
        ({"mean": 2.0, "interval": [0.1, 3.9]}, "RPG wins"),
        ({"mean": -2.0, "interval": [-3.9, -0.1]}, "RPG loses"),
        ({"mean": 2.0, "interval": [-0.1, 4.1]}, "neither wins"),
        # A single group has no interval, so nothing is certain.
        ({"mean": 20.0}, "neither wins"),
    ],
)
def test_conclusion_follows_from_the_interval(rivals: Path, above: dict, outcome: str) -> None:
    tree = read_ablation(rivals)
    for rival in tree["rivals"]:
        for of_set in rival["sets"].values():
            of_set["above"] = above
    for line in conclusions(AblationResult.model_validate(tree)):
        assert line.partition(": ")[2].startswith(f"{outcome}. ")


def test_without_baselines_there_is_no_second_table(ablated: Path) -> None:
    tree = json.loads((ablated / "results/why/ablation.json").read_text())
    assert tree.keys() & {"best", "rivals"} == set()
    assert list(conclusions(AblationResult.model_validate(tree))) == []


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
    heading = HEADING.format(unit="in percent")
    assert text.startswith(heading)
    # results/peers.md has those that compare generators.
    varied = {name: of for name, of in params.ablations.items() if not of.peers}
    heads = [(name, of.experiment, of.question) for name, of in varied.items()]
    assert re.findall(r"^## (.*), of (.*)\n\n(.*)\n", text, re.M) == heads
    for name, of in varied.items():
        section = text[text.index(f"\n## {name}, of ") :].removeprefix("\n").partition("\n## ")[0]
        # The first table; a second one has the rivals.
        first = section.partition("\n|")[2].partition("\n\n")[0]
        rows = [line.split("|")[1].strip() for line in f"|{first}".splitlines()][2:]
        assert list(dict.fromkeys(row.partition(", ")[0] for row in rows)) == list(of.variants)
    # DVC's: a fresh clone has it after `rpg ledger pull`.
    if (ROOT / "results/ablations.json").is_file():
        trees = json.loads((ROOT / "results/ablations.json").read_text())
        assert sorted(trees) == sorted(varied)
        sections = [
            ablation(name, of.question, of.experiment, AblationResult.model_validate(trees[name]))
            for name, of in varied.items()
        ]
        assert text == heading + "".join(sections)
