import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_layers
from promises import counts

from rpg.config.loading import load_params
from rpg.evaluation.methods import kinds, label
from rpg.evaluation.results import Method, NoveltyResult, Symmetries
from rpg.evaluation.score import summary
from rpg.reports.artifacts import ExperimentResult, ExperimentResults
from rpg.reports.promises import PROMISES, broken_promises
from rpg.reports.published import PUBLISHED, SOURCES
from rpg.reports.tables import (
    beaten_by,
    has_other_metrics,
    markdown,
    metrics_in_units,
    published_section,
    symmetries,
    zoo_baselines,
)
from rpg.utils.metric import MetricKind


def typed(tree: dict) -> dict[str, ExperimentResult]:
    """The experiments of a metrics.json."""
    return ExperimentResults.model_validate(tree).experiments


def test_summary_by_hand() -> None:
    """Student's t with two degrees of freedom is 4.3027 at 97.5 %."""
    found = summary([90.0, 91.0, 95.0], [0, 1, 2])
    assert found.pop("interval") == pytest.approx(
        [92 - 4.3027 * 2.64575 / 3**0.5, 92 + 4.3027 * 2.64575 / 3**0.5], abs=1e-3
    )
    assert found == {"mean": 92.0, "std": 2.6458, "min": 90.0, "best": 95.0, "n": 3}
    assert summary([90.0], [0]) == {"mean": 90.0, "std": 0.0, "min": 90.0, "best": 90.0, "n": 1}


def test_metrics_stand_with_their_units() -> None:
    def measured(metric: str, **kind: object) -> ExperimentResult:
        return ExperimentResult.model_construct(metric=metric, **kind)

    percent = {"a": measured("top1"), "b": measured("mIoU")}
    assert (metrics_in_units(percent), has_other_metrics(percent)) == ("mIoU, top1 in percent", False)
    others = {"c": measured("psnr", unit="dB"), **percent, "d": measured("mse", unit="", lower_is_better=True)}
    assert metrics_in_units(others) == "mIoU, top1 in percent; psnr in dB; mse without a unit"
    assert has_other_metrics(others)
    assert has_other_metrics({"e": measured("error", lower_is_better=True)})


def test_a_smaller_error_beats() -> None:
    numbers = {"mean": 0.5, "std": 0.1, "min": 0.7, "best": 0.4, "n": 4, "verdict": "novel", "novel": {}}
    own = Method(**numbers, distance=1.0)
    rivals = [("noise 1", "all", own.model_copy(update={"mean": mean})) for mean in (0.4, 0.5, 0.6)]
    networks = [("RPG", "all", own), *rivals]
    assert beaten_by("all", own, networks, MetricKind("", lower_is_better=True)) == 2
    assert beaten_by("all", own, networks) == 2
    assert beaten_by("all", own, networks[:3], MetricKind("", lower_is_better=True)) == 2
    assert beaten_by("all", own, networks[:3]) == 1


def test_summary_of_errors_by_hand() -> None:
    found = summary([-3e-5, 1e-5, 2e-5], [0, 1, 2], metric_kind=MetricKind("", lower_is_better=True))
    assert (found["best"], found["min"]) == (-3e-5, 2e-5)
    assert found["mean"] == pytest.approx(0.0, abs=1e-15)
    assert found["std"] == 2.64575e-05
    # The interval of a percentage ends at 100, that of another score does not.
    assert summary([99.0, 100.0, 98.0], [0, 1, 2])["interval"][1] == 100.0
    assert summary([99.0, 100.0, 98.0], [0, 1, 2], metric_kind=MetricKind("dB"))["interval"][1] == 101.484


def test_copies_of_a_network_are_worth_no_more_than_it() -> None:
    values = np.random.default_rng(0).normal(97.0, 0.5, 20)
    alone = summary(values.tolist(), range(20))["interval"]
    copies = summary(np.repeat(values, 10).tolist(), np.repeat(np.arange(20), 10).tolist())["interval"]
    assert copies == pytest.approx(alone, abs=1e-3)
    assert "interval" not in summary(values.tolist(), ["x"] * 20)


def test_metrics_cover_all_networks(finished: Path) -> None:
    entry = json.loads((finished / "results/metrics.json").read_text())["experiments"]["mini"]
    scores = json.loads((finished / "results/mini/scores.json").read_text())
    tests = [network["test"] for network in scores["rpg"]]
    assert entry["rpg"]["n"] == 4
    assert entry["rpg"]["mean"] == pytest.approx(sum(tests) / 4, abs=1e-4)
    assert [entry["rpg"]["min"], entry["rpg"]["best"]] == pytest.approx([min(tests), max(tests)], abs=1e-4)
    assert entry["original"]["n"] == 6
    assert [entry["task"], entry["metric"]] == ["classification", "top1"]


def test_seconds_stand_apart(finished: Path) -> None:
    seconds = json.loads((finished / "results/seconds.json").read_text())["experiments"]["mini"]["seconds"]
    assert seconds.keys() == {"train", "sample"}
    assert all(value > 0 for value in seconds.values())
    assert "seconds" not in (finished / "results/metrics.json").read_text()


def test_tables_again_give_the_same_bytes(finished: Path) -> None:
    names = ("tables.md", "metrics.json", "scores.csv", "novelty.csv", "seconds.json")
    before = [(finished / "results" / name).read_bytes() for name in names]
    run_layers(finished, "tables")
    assert [(finished / "results" / name).read_bytes() for name in names] == before


def test_scores_csv_has_every_network(finished: Path) -> None:
    frame = pd.read_csv(finished / "results/scores.csv")
    assert list(frame.columns) == ["experiment", "networks", "file", "validation", "test"]
    assert frame.networks.tolist() == ["original"] * 6 + ["RPG"] * 4
    scores = json.loads((finished / "results/mini/scores.json").read_text())
    assert frame.test.tolist() == [network["test"] for network in scores["original"] + scores["rpg"]]


def test_markdown_row() -> None:
    numbers = {"mean": 97.123, "std": 0.456, "interval": [96.9, 97.3], "min": 96.0, "best": 98.0, "n": 20}
    placed = {**numbers, "verdict": "as noise", "distance": 3.21, "novel": {"0.5": 0.75, "4.0": 0.0}}
    rpg = {
        **placed,
        "ensemble": {"rpg": 98.5, "original": 99.25},
        "verdict": "novel",
        "median": {"aligned": 0.25, "residual": 0.2, "iou": 0.5, "disagreement": 2.0},
    }
    novelty = {
        "rule": {"copy": 0.25, "near": 0.75, "combined": 0.5, "accurate": 0.99, "floor": 0.05},
        "zoo": {"aligned": 0.1, "aligned_across": 1.3, "residual": 0.3, "distance": 0.1},
        "rpg": {"all": rpg},
        "original": {**placed, "verdict": "original", "n": 40},
        "baselines": {
            "noise 0.1": {"seen": {**placed, "mean": 96.0}},
            "hypernetwork": {"seen": placed, "held_out": {**placed, "distance": 3.25}},
        },
        "symmetries": {"permutations": 3, "scales": 5, "low_rank": 0, "reason": ""},
    }
    entry = {"task": "classification", "metric": "top1", "parameters": 12345, "original": {**numbers, "n": 40}}
    entry["differences"] = {"original": {"all": {"mean": -0.123, "interval": [-0.5, 0.25]}}}
    text = markdown({"x": ExperimentResult.model_validate({**entry, "rpg": numbers, "novelty": novelty})})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    mean = "97.12 ± 0.46 [96.90, 97.30]"
    assert rows[2] == ["x", "top1", "12,345", mean, "98.00", "40", mean, "96.00", "98.00", "20", "-0.12 [-0.50, +0.25]"]
    assert rows[5] == [
        "x", "20", "novel", "0.2500 / 1.3000", "0.2000 / 0.3000", "0.50 / -", "2.0 / -", "98.5 / 99.2",
        "3 / 5 / 0",
    ]  # fmt: skip
    # Rows of other tasks do not count, nor do RPG's own.
    assert [row[:6] for row in rows[8:]] == [
        ["originals", "40", mean, "-", "3.21", "2"],
        ["RPG", "20", mean, "novel", "3.21", "3"],
        ["hypernetwork, task loss only, seen", "20", mean, "as noise", "3.21", "1"],
        ["hypernetwork, task loss only, held-out", "20", mean, "as noise", "3.25", "0"],
        ["noise 0.1, seen", "20", "96.00 ± 0.46 [96.90, 97.30]", "as noise", "3.21", "2"],
    ]
    assert rows[6][6:] == ["> 0.5", "> 4.0"]
    assert rows[8][6:] == ["0.75", "0.00"]
    assert "fraction of networks that reach 99% of" in text
    assert "under 0.25 u" in text


def test_missing_symmetries_have_a_reason() -> None:
    adapter = Symmetries(permutations=0, scales=0, low_rank=7, reason="an adapter")
    assert symmetries(adapter) == "0 / 0 / 7 (an adapter)"
    assert symmetries(None) == "-"


@pytest.mark.parametrize(("groups", "permuted"), [(0, False), (2, True)])
def test_units_are_permuted_only_where_groups_were_found(finished: Path, groups: int, permuted: bool) -> None:
    tree = json.loads((finished / "results/mini/novelty.json").read_text())
    tree["symmetries"] = {"permutations": groups, "scales": 0, "low_rank": 0, "reason": ""}
    text = zoo_baselines("mini", NoveltyResult.model_validate(tree))
    assert ("units permuted to match" in text) is permuted
    assert ("No group of units was found" in text) is not permuted


def test_every_metric_of_segmentation_has_a_row(found: Path) -> None:
    tree = json.loads((found / "results/metrics.json").read_text())
    entry = tree["experiments"]["scenes"]
    text = (found / "results/tables.md").read_text()
    section = text[text.index("## Segmentation and detection") : text.index("## Are the samples new?")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    # The one that networks are compared by, then the others in the task's order, which JSON does not keep.
    assert [row[:2] for row in rows[2:]] == [["scenes", "mIoU"], ["scenes", "mAcc"], ["scenes", "aAcc"]]
    for row, of in zip(rows[2:], (entry, entry["others"]["mAcc"], entry["others"]["aAcc"]), strict=True):
        assert row[2].startswith(f"{of['original']['mean']:.2f} ± {of['original']['std']:.2f} [")
        assert row[4] == "4"
        assert row[5].startswith(f"{of['rpg']['mean']:.2f} ± ")
        assert row[6:] == [f"{of['rpg']['min']:.2f}", f"{of['rpg']['best']:.2f}", "3"]


def test_section_of_an_experiment_with_task_codes(tasks: Path) -> None:
    text = (tasks / "results/tables.md").read_text()
    metrics = json.loads((tasks / "results/metrics.json").read_text())["experiments"]["tasks"]
    section = text[text.index("## tasks: tasks seen and never seen") : text.index("## Are the samples new?")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    # The miniature's network has BatchNorm, so every method whose networks have weights has two rows.
    without_weights = {label(f"{kind}_recounted") for kind in ("base_lookup", "base_probe", "majority_class")}
    own = [kind for kind in kinds() if "questions" not in kind]
    assert [row[0] for row in rows[2:]] == [label(kind) for kind in own if label(kind) not in without_weights]
    assert rows[0][1:5] == ["knows", "seen mean ± std", "seen min", "seen n"]
    assert rows[0][-4:] == ["held-out mean ± std", "held-out min", "held-out n", "RPG − it, held-out"]
    knows = {row[0]: row[1] for row in rows[2:]}
    assert knows["RPG"] == "zoo, labels"
    assert knows["RPG, not tuned"] == "zoo"
    assert knows["RPG, not tuned, BatchNorm recounted"] == "zoo, images"
    assert knows["hypernetwork, task loss only"] == "mean of the zoo, labels"
    assert knows["base network alone"] == "base network"
    held = metrics["held_out"]
    (ours,) = (row for row in rows if row[0] == "RPG")
    assert ours[-4:] == [
        f"{held['mean']:.2f} ± {held['std']:.2f} [{held['interval'][0]:.2f}, {held['interval'][1]:.2f}]",
        f"{held['min']:.2f}", "6", "-"
    ]  # fmt: skip
    ridge = metrics["differences"]["ridge"]["held_out"]
    (row,) = (row for row in rows if row[0] == "ridge regression, bits")
    assert row[-1] == f"{ridge['mean']:+.2f} [{ridge['interval'][0]:+.2f}, {ridge['interval'][1]:+.2f}]"
    assert ridge["mean"] == pytest.approx(held["mean"] - metrics["baselines"]["ridge"]["held_out"]["mean"], abs=2e-4)
    seconds = json.loads((tasks / "results/seconds.json").read_text())["experiments"]["tasks"]["seconds"]
    assert list(seconds) == sorted(["train", "tune", "hypernetwork", "sample"])


def test_networks_between_states_of_an_experiment_with_task_codes(tasks: Path) -> None:
    """They are a row of the first table, and no set of tasks: no original was trained between two states."""
    tree = json.loads((tasks / "results/metrics.json").read_text())
    text = markdown(typed(tree))
    entry = tree["experiments"]["tasks"]
    entry["between"], originals = entry["rpg"], entry["differences"]["original"]
    originals["between"] = originals["all"]
    with_row = markdown(typed(tree))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in with_row.splitlines() if line[:1] == "|"]
    assert rows[3][0] == "tasks, between states"
    assert rows[3][1:] == rows[2][1:]
    assert with_row[with_row.index("\n## tasks: tasks seen") :] == text[text.index("\n## tasks: tasks seen") :]


def test_committed_tables_reach_the_promised_quality() -> None:
    """results/tables.md shows the numbers of results/metrics.json; test_docs.py compares the README with it."""

    def committed(path: str) -> str:
        # Not what lies there: another machine's run may have come to other numbers.
        command = ["git", "show", f"HEAD:{path}"]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    params, tree = load_params(ROOT / "params.yaml"), json.loads(committed("results/metrics.json"))
    # JSON is written with sorted keys, tables in the order of `run`.
    tree["experiments"] = {name: tree["experiments"][name] for name in params.run}
    assert counts(tree) == {
        "digits-resnet": {"original": 25, "rpg": 20},
        "digits-vit": {"original": 25, "rpg": 20, "between": 20},
        "digits-convnext": {"original": 25, "rpg": 20, "between": 20},
        "digits-tasks": {"original": 170, "rpg": 150, "seen": 90, "held_out": 60},
        "scenes-upernet": {"original": 10, "rpg": 10, "others": 2},
        "scenes-vitdet": {"original": 10, "rpg": 10, "others": 7},
        "facts-dora-r4": {"original": 10, "rpg": 10, "others": 17},
        "facts-dora-r16": {"original": 10, "rpg": 10, "others": 17},
    }
    assert broken_promises(tree["experiments"], PROMISES) == []
    assert committed("results/tables.md") == markdown(typed(tree))


def test_tables_are_those_of_metrics_json() -> None:
    """What `rpg tables` or `rpg ledger pull` has put into results/; in a fresh clone that is tables.md alone."""
    if (ROOT / "results/metrics.json").is_file():
        tree = json.loads((ROOT / "results/metrics.json").read_text())
        run = load_params(ROOT / "params.yaml").run
        assert sorted(tree["experiments"]) == sorted(run)
        # JSON is written with sorted keys, tables in the order of `run`.
        tree["experiments"] = {name: tree["experiments"][name] for name in run}
        assert broken_promises(tree["experiments"], PROMISES) == []
        assert (ROOT / "results/tables.md").read_text() == markdown(typed(tree))


def test_published_numbers_stand_beside_ours(finished: Path) -> None:
    entry = typed(json.loads((finished / "results/metrics.json").read_text()))["mini"]
    assert published_section({"mini": entry}) == ""
    text = published_section({"mini": entry, "cifar10-resnet18": entry})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| cifar")
    ]
    ours = [f"{number:.1f}" for number in (entry.original.mean, entry.rpg.best, entry.rpg.mean, entry.rpg.min)]
    assert rows == [
        ["cifar10-resnet18", "top1", "RPG, here", *ours, "n = 4"],
        ["cifar10-resnet18", "top1", "RPG, published", "95.3", "95.1", "-", "-", ""],
        ["cifar10-resnet18", "top1", "p-diff", "95.3", "-", "-", "-", "out of memory"],
        ["cifar10-resnet18", "top1", "SANE", "85.5", "68.6", "-", "-", ""],
        ["cifar10-resnet18", "top1", "D2NWG", "94.6", "94.6", "-", "-", ""],
    ]
    assert "D2NWG: Soro et al. 2024, arXiv 2402.18153" in text


def test_published_rows_are_of_experiments_and_cited() -> None:
    params = load_params(ROOT / "params.yaml")
    for name, rows in PUBLISHED.items():
        assert name in params.experiments
        for row in rows:
            assert row.method in SOURCES
            assert all(0 < value <= 100 for value in (row.original, row.best, row.mean, row.min) if value is not None)
