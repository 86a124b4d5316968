"""results/peers.md: a zoo with two generators, from training to the page."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import MINIATURE, ROOT, SETTINGS, TASKS, run_layers, write_tree
from peers import PEERS

from rpg.config.loading import load_params
from rpg.evaluation.results import NoveltyResult
from rpg.paths import Paths, paths_of
from rpg.reports.peers import HEADING, Comparison, Contender, comparisons, title_of, write_peers
from rpg.reports.published import RPG, Published
from rpg.utils.errors import UserError
from rpg.utils.files import read_sealed, write_sealed

DUEL = {
    "question": "Which one?",
    "experiment": "mini",
    "seeds": [0],
    "novelty": True,
    "peers": True,
    "variants": {"rpg": {}, "gaussian": {"model.generator": PEERS["gaussian"]}},
}


@pytest.fixture(scope="module")
def duel(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("duel") / "copy"
    shutil.copytree(finished, folder)
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE}, "ablations": {"duel": DUEL}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    # RPG is that of the experiment.
    run_layers(folder, "train", "sample", "score", "novelty", experiment="duel/gaussian-0")
    run_layers(folder, "ablation", experiment="duel")
    return folder


def test_page_has_each_generator_with_its_costs_and_says_who_wins(duel: Path) -> None:
    params, results = load_params(duel / "params.yaml"), duel / "results"
    assert comparisons(params) == ["duel"]
    write_peers(params, results)
    page = (results / "peers.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    header, by_name = rows[0], {row[0]: row for row in rows[2:]}
    assert {name for name in by_name if name in DUEL["variants"]} == {"rpg", "gaussian"}
    result = json.loads((results / "duel/ablation.json").read_text())
    scores = {one["variant"]: one["sets"]["all"]["test"] for one in result["variants"]}
    for name in ("rpg", "gaussian"):
        row = dict(zip(header, by_name[name], strict=True))
        assert row["mean"].startswith(f"{scores[name]['rpg']['mean']:.2f} ±")
        assert float(row["share"]) == pytest.approx(
            scores[name]["rpg"]["mean"] / scores[name]["original"]["mean"], abs=5e-4
        )
        assert row["memory MB"] == "-"
    assert "noise 0.1" in by_name
    assert by_name["gaussian"][header.index("reads")] == "-"
    assert int(by_name["gaussian"][header.index("stored")].replace(",", "")) == 2 * 3 * int(
        by_name["gaussian"][header.index("generates")].replace(",", "")
    )
    # A Gaussian trains in no time, so it has RPG's seconds at most.
    assert "all: of generators in at most 1.5 times RPG's seconds, *gaussian* has the best validation score" in page
    own, rival = ([one["test"] for one in scores_of(duel, name)] for name in ("rpg", "gaussian"))
    above = sum(own) / len(own) - sum(rival) / len(rival)
    assert f"RPG minus it, on the test split, is {above:+.2f}" in page
    data = json.loads((results / "peers.json").read_text())["duel"]
    assert {one["group"] for one in data} == {"originals", "RPG", "generator", "zoo"}


def test_published_numbers_stand_below_the_table(duel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that nobody published has no line."""
    rows = (Published(RPG, "top1", 49.0, 48.5), Published("p-diff", "top1", 49.0, note="out of memory"))
    monkeypatch.setattr("rpg.reports.peers.PUBLISHED", {"mini": rows})
    comparison = Comparison(load_params(duel / "params.yaml"), "duel", duel / "results")
    section = comparison.section(dict(comparison.methods()))
    (line,) = [line for line in section.splitlines() if line.startswith("- Published")]
    assert line == (
        "- Published for this network: RPG's best one has 48.5 of the originals' 49.0"
        " (Wang et al. 2025, arXiv 2501.11587)."
    )


def test_a_second_comparison_of_an_experiment_has_its_name_in_the_title(
    duel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = Comparison(load_params(duel / "params.yaml"), "duel", duel / "results")
    assert comparison.section(dict(comparison.methods())).startswith("## mini\n")
    monkeypatch.setattr("rpg.reports.peers.comparisons", lambda params: ["earlier", "duel"])
    earlier = comparison.params.model_copy(
        update={"ablations": {"earlier": comparison.ablation, **comparison.params.ablations}}
    )
    comparison.params = earlier
    assert comparison.section(dict(comparison.methods())).startswith("## mini: duel\n")


def scores_of(duel: Path, variant: str) -> list[dict]:
    params, results = load_params(duel / "params.yaml"), duel / "results"
    paths = paths_of(params, f"duel/{variant}-0", results)
    return json.loads(paths.file("score.scores").read_text())["rpg"]


def test_costs_are_means_of_the_trainings_and_the_largest_memory(duel: Path, tmp_path: Path) -> None:
    shutil.copytree(duel, tmp_path / "copy")
    params, results = load_params(tmp_path / "copy/params.yaml"), tmp_path / "copy/results"
    # The function takes any trainings.
    trials = [paths_of(params, f"duel/{variant}-0", results) for variant in ("rpg", "gaussian")]
    for paths, seconds, memory in zip(trials, (10.0, 20.0), (900, 1100), strict=True):
        write_sealed(paths.file("train.seconds"), {"seconds": seconds, "steps": 40, "device": "CPU"})
        log = tmp_path / "copy/logs" / paths.makers["train"] / "train.tsv"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"s\tmax_rss\n1.0\t{memory}\n")
    first = Comparison(params, "duel", results).rpg
    training, sampling, memory = Contender(first.scored, first.experiment, trials).costs
    assert (training, memory) == (15.0, 1100.0)
    assert sampling > 0


def test_seen_and_held_out_tasks_have_rows_of_their_own(tasks: Path, tmp_path: Path) -> None:
    """With task codes; RPG's rows are those of the ablation's scores, and each set has its best rival."""
    folder = tmp_path / "copy"
    shutil.copytree(tasks, folder)
    alone = {"tune": None, "hypernetwork": None}
    flow = {"model.generator": PEERS["flow"], "train.steps": 20, **alone}
    contest = {**DUEL, "experiment": "tasks", "variants": {"rpg": {}, "flow": flow}}
    write_tree(folder, tasks=TASKS)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**tree, "ablations": {"duel": contest}}, sort_keys=False))
    run_layers(folder, "train", "sample", "score", "novelty", experiment="duel/flow-0")
    run_layers(folder, "ablation", experiment="duel")
    comparison = Comparison(load_params(folder / "params.yaml"), "duel", folder / "results")
    assert comparison.keys == ["seen", "held_out_pairs", "held_out"]
    assert comparison.main == "held_out"
    methods = dict(comparison.methods())
    assert {group for _, group in methods} >= {"originals", "RPG", "generator"}
    section = comparison.section(methods)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    means = {row[0]: row[1] for row in rows}
    for name in ("rpg", "flow"):
        for key, label in (("seen", "seen"), ("held_out", "held-out")):
            own = comparison.contenders[name].scored.sets[key].test.rpg.mean
            assert means[f"{name}, {label}"].startswith(f"{own:.2f} ±")
    for label in ("seen", "held-out pairs", "held-out"):
        assert f"- {label}: of generators in" in section


def test_a_missing_ablation_is_one_line(duel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ablation\.json: missing.*rpg ablation --experiment duel"):
        write_peers(load_params(duel / "params.yaml"), tmp_path)


def test_rpg_is_the_variant_without_another_generator(duel: Path, tmp_path: Path) -> None:
    comparison = Comparison(load_params(duel / "params.yaml"), "duel", duel / "results")
    assert comparison.first == "rpg"
    assert [*comparison.rivals] == ["gaussian"]
    shutil.copytree(duel, tmp_path / "copy")
    file = tmp_path / "copy/results/duel/ablation.json"
    result = json.loads(file.read_text())
    result["variants"] = [one for one in result["variants"] if one["variant"] != "rpg"]
    write_sealed(file, result)
    alone = {**DUEL, "variants": {"gaussian": DUEL["variants"]["gaussian"]}}
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE}, "ablations": {"duel": alone}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"ablations\.duel\.variants: none is RPG"):
        Comparison(load_params(tmp_path / "params.yaml"), "duel", tmp_path / "copy/results")


def test_distances_are_those_of_the_first_training(duel: Path) -> None:
    params, results = load_params(duel / "params.yaml"), duel / "results"
    write_peers(params, results)
    data = json.loads((results / "peers.json").read_text())["duel"]
    novelty = read_sealed(Paths("mini", results).file("novelty.summary"), "rpg novelty", NoveltyResult)
    own = next(one for one in data if one["method"] == "rpg")
    assert own["distance"] == novelty.rpg["all"].distance


def test_committed_page_is_that_of_params() -> None:
    params, text = load_params(ROOT / "params.yaml"), (ROOT / "results/peers.md").read_text()
    assert text.startswith(HEADING)
    sections = text.split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == [
        "digits-resnet", "digits-resnet: peers-resnet-10x", "digits-resnet-64", "digits-vit", "digits-convnext"
    ]  # fmt: skip
    assert [title_of(params, name) for name in comparisons(params)] == [one.partition("\n")[0] for one in sections]
    for name, section in zip(comparisons(params), sections, strict=True):
        names = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][1:]
        # A variant has a row for each set of networks.
        variants = [*dict.fromkeys(row.partition(", ")[0] for row in names)]
        assert variants[: len(params.ablation(name).variants)] == list(params.ablation(name).variants)


def test_a_generator_of_a_part_of_the_weights_is_no_rival(duel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(duel, folder)
    part = {**DUEL["variants"]["gaussian"], "tokens.only": ["*bn1*"]}
    tree = {**SETTINGS, "run": ["mini"], "experiments": {"mini": MINIATURE}}
    tree["ablations"] = {"duel": {**DUEL, "variants": {**DUEL["variants"], "part": part}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    run_layers(folder, "tokens", "train", "sample", "score", "novelty", experiment="duel/part-0")
    run_layers(folder, "ablation", experiment="duel")
    write_peers(load_params(folder / "params.yaml"), folder / "results")
    page = (folder / "results/peers.md").read_text()
    assert "| part " in page
    assert "*part*" not in page
    data = json.loads((folder / "results/peers.json").read_text())["duel"]
    assert "part" not in {one["method"] for one in data}
