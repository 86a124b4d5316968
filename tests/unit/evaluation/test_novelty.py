"""What is planted among the samples must be called what it is."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run_layers
from safetensors.torch import load_file, save_file

from rpg.config.loading import load_params
from rpg.evaluation.alignment import permute
from rpg.evaluation.geometry import ZooPoints
from rpg.evaluation.novelty import MeasuredNetwork, NoveltyAnalysis, iou, summarize, verdict, vote
from rpg.paths import Paths
from rpg.utils.errors import UserError
from rpg.utils.files import file_entry, write_sealed


@pytest.fixture(scope="module")
def novelty(finished: Path) -> NoveltyAnalysis:
    return open_novelty(finished, "mini")


def open_novelty(folder: Path, name: str) -> NoveltyAnalysis:
    return NoveltyAnalysis(load_params(folder / "params.yaml").experiment(name), Paths(name, folder / "results"), None)


def judged(novelty: NoveltyAnalysis, points: list[np.ndarray]) -> str:
    """The verdict on samples at these points."""
    samples = list(novelty.judge(novelty.network_at("RPG", 0, None, point_P) for point_P in points))
    samples_rows, originals = (
        pd.DataFrame([novelty.row(network) for network in networks]) for networks in (samples, novelty.originals)
    )
    return verdict(samples_rows, originals)


def nearest_of(novelty: NoveltyAnalysis, network: MeasuredNetwork, rivals: list[MeasuredNetwork]) -> MeasuredNetwork:
    """The rival with the nearest canonical point."""
    own_P = novelty.zoo.canonical(network.point_P)
    return min(rivals, key=lambda other: np.mean((novelty.zoo.canonical(other.point_P) - own_P) ** 2))


def test_planted_checkpoints_are_replicas(novelty: NoveltyAnalysis) -> None:
    assert judged(novelty, list(novelty.zoo.points_NP)) == "replica"


def test_planted_permutations_are_replicas(novelty: NoveltyAnalysis) -> None:
    """Far away as they are, they answer as a checkpoint does."""
    space, draw = novelty.space, np.random.default_rng(0)
    planted = []
    for point_P in novelty.zoo.points_NP:
        orders = [draw.permutation(group.units) for group in space.groups]
        moved = permute(space.tensors(point_P), space.groups, orders)
        planted.append(np.concatenate([moved[tensor.name].ravel() for tensor in space.layout.tokenized]))
    for point_P, moved_P in zip(novelty.zoo.points_NP, planted, strict=True):
        assert novelty.zoo.distances(moved_P).min() > 0.3
        both = novelty.judge(novelty.network_at("RPG", 0, None, point) for point in (point_P, moved_P))
        answers, moved = (network.answers for network in both)
        assert np.mean(answers == moved) > 0.99
    assert judged(novelty, planted) == "replica"


def test_planted_averages_of_seeds_are_interpolations(novelty: NoveltyAnalysis) -> None:
    zoo = novelty.zoo
    one_P, other_P, third_P = (zoo.points_NP[zoo.seeds == seed][0] for seed in range(3))
    planted = [(one_P + other_P) / 2, 0.4 * one_P + 0.6 * third_P, (one_P + other_P + third_P) / 3]
    assert judged(novelty, planted) == "interpolation"


def test_planted_average_of_permuted_seeds_is_an_interpolation(novelty: NoveltyAnalysis) -> None:
    zoo = novelty.zoo
    one_P, other_P = zoo.points_NP[0], zoo.points_NP[-1]
    assert judged(novelty, [(one_P + other_P[zoo.space.order(other_P, one_P)]) / 2]) == "interpolation"


def test_noise_alone_is_far_away_and_inaccurate(novelty: NoveltyAnalysis) -> None:
    draw = np.random.default_rng(0)
    assert judged(novelty, [draw.standard_normal(novelty.zoo.points_NP.shape[1]) for _ in range(3)]) == "inaccurate"


@pytest.mark.parametrize("level", [0.01, 0.1, 0.5])
def test_planted_noise_on_a_checkpoint_is_a_replica(novelty: NoveltyAnalysis, level: float) -> None:
    draw = np.random.default_rng(0)
    points_NP = novelty.zoo.points_NP
    assert judged(novelty, list(points_NP + level * draw.standard_normal(points_NP.shape))) == "replica"


def test_networks_trained_anew_are_novel(novelty: NoveltyAnalysis) -> None:
    """A seed of the zoo, to a zoo of the other seeds."""
    zoo = novelty.zoo
    left_out = zoo.seeds == 2
    smaller = ZooPoints(zoo.space, zoo.points_NP[~left_out], zoo.seeds[~left_out], zoo.codes[~left_out])
    originals, samples = (
        pd.DataFrame([{**smaller.measure(zoo.points_NP[index], own_index=but), "test": 97.0} for index, but in which])
        for which in (
            [(index, place) for place, index in enumerate(np.flatnonzero(~left_out))],
            [(index, None) for index in np.flatnonzero(left_out)],
        )
    )
    assert verdict(samples, originals) == "novel"


def test_rows_are_what_the_layer_wrote(novelty: NoveltyAnalysis, finished: Path) -> None:
    rows = pd.read_csv(finished / "results/mini/novelty.csv")
    counts = rows["networks"].value_counts(sort=False).to_dict()
    assert (counts["original"], counts["RPG"]) == (6, 4)
    assert all(count == 4 for kind, count in counts.items() if kind != "original")
    reaches = ("within", "across", "across, aligned")
    mixtures = {f"{kind} {reach}" for kind in ("mean", "interpolation", "Gaussian") for reach in reaches}
    assert set(counts) == {"original", "RPG", "noise 0.1", "noise 1.0"} | mixtures
    scores = json.loads((finished / "results/mini/scores.json").read_text())
    tests = {entry["file"]: entry["test"] for entry in [*scores["original"], *scores["rpg"]]}
    for row in rows[rows["networks"].isin(["original", "RPG"])].itertuples():
        assert row.test == pytest.approx(tests[row.file])
    first = rows[rows["networks"] == "RPG"].iloc[0]
    (sample,) = [sample for sample in novelty.samples if sample.file == first["file"]]
    distances = novelty.zoo.distances(sample.point_P)
    assert first["distance"] == pytest.approx(distances.min(), abs=1e-6)
    assert first["nearest"] == novelty.store.checkpoints[distances.argmin()].file
    assert (rows["distance"] >= rows["aligned"].fillna(0)).all()
    assert (rows["from_zoo"] == rows["aligned"].fillna(rows["distance"])).all()


def test_sample_that_was_not_scored_is_one_line(finished: Path) -> None:
    """As after `rpg sample` alone: what was scored is another network of that name."""
    folder = finished / "results/mini"
    manifest, scored = folder / "samples/manifest.json", folder / "samples/0001.safetensors"
    before = manifest.read_text(), scored.read_bytes()
    try:
        weights = load_file(scored)
        save_file({name: tensor + 1 for name, tensor in weights.items()}, scored)
        samples = json.loads(before[0])["samples"]
        samples[1] |= file_entry(scored)
        write_sealed(manifest, {"samples": samples})
        with pytest.raises(UserError, match=r"scores.json: has no score of .*0001.safetensors; run `rpg score` again"):
            open_novelty(finished, "mini")
    finally:
        manifest.write_text(before[0])
        scored.write_bytes(before[1])


def test_layer_again_gives_the_same_bytes(finished: Path) -> None:
    paths = [finished / "results/mini" / name for name in ("novelty.json", "novelty.csv")]
    before = [path.read_bytes() for path in paths]
    run_layers(finished, "novelty")
    assert [path.read_bytes() for path in paths] == before


def test_iou_and_disagreement_by_hand(novelty: NoveltyAnalysis) -> None:
    wrong, other = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert iou(wrong, other) == pytest.approx(1 / 3)
    assert iou(wrong, wrong) == 1
    assert iou(wrong & False, wrong & False) == 1
    first = novelty.originals[0]
    row = novelty.row(first)
    # Of other training runs.
    rivals = [other for other in novelty.originals if other.state != first.state]
    nearest = nearest_of(novelty, first, rivals)
    assert row["iou"] == iou(novelty.wrong(first), novelty.wrong(nearest))
    assert row["disagreement"] == 100 * np.mean(first.answers != nearest.answers)


def test_vote_by_hand() -> None:
    assert vote([np.array([0, 2, 1, 3]), np.array([0, 2, 2, 1]), np.array([1, 0, 2, 0])]).tolist() == [0, 2, 2, 0]


def test_ensembles_by_hand(novelty: NoveltyAnalysis) -> None:
    found = novelty.ensembles(between=False)
    assert found["networks"] == 4
    voted = vote([sample.answers for sample in novelty.rpg_samples])
    labels = novelty.task.data.test.labels.numpy()
    assert found["rpg"] == pytest.approx(100 * np.mean(voted == labels), abs=1e-4)
    assert novelty.ensembles(between=True) == {}
    # Originals of all three runs in turn, the last save first: of the first run the one before it comes fourth.
    chosen = [novelty.originals[index].answers for index in (1, 3, 5, 0)]
    assert found["original"] == pytest.approx(100 * np.mean(vote(chosen) == labels), abs=1e-4)


def test_summary_by_hand() -> None:
    """Unit 0.2, accurate from 99 on: of three samples one is inaccurate, one near, one accurate and 3 units away."""
    columns = ["networks", "set", "run", "test", "distance", "aligned", "aligned_across", "residual", "from_zoo"]
    rows = [
        ["original", "all", "0", 100.0, 0.1, 0.1, 1.0, 0.9],
        ["original", "all", "0", 100.0, 0.2, 0.2, 1.0, 0.9],
        ["original", "all", "1", 100.0, 0.4, 0.4, 1.0, 0.9],
        ["RPG", "all", "0", 98.9, 0.6, 0.6, np.nan, 0.4],
        ["RPG", "all", "0", 99.0, 0.08, 0.08, np.nan, 0.1],
        ["RPG", "all", "1", 99.5, 0.6, 0.5, np.nan, 0.2],
        ["noise 0.1", "all", "0", 99.5, 0.3, np.nan, np.nan, np.nan],
    ]
    # The units of the noisy network were not permuted to match.
    rows = [[*row, row[4] if row[0] == "noise 0.1" else row[5]] for row in rows]
    found = summarize(pd.DataFrame(rows, columns=columns))
    sample = found["rpg"]["all"]
    assert sample["verdict"] == "interpolation"
    assert sample["novel"] == {"0.5": 0.3333, "1.0": 0.3333, "2.0": 0.3333, "4.0": 0.0}
    assert (sample["distance"], sample["n"]) == (2.5, 3)
    assert sample["median"] == {"distance": 0.6, "aligned": 0.5, "residual": 0.2}
    assert found["zoo"] == {"distance": 0.2, "aligned": 0.2, "aligned_across": 1.0, "residual": 0.9}
    assert found["original"]["novel"]["1.0"] == 0.3333
    assert found["baselines"]["noise 0.1"]["all"]["novel"] == {"0.5": 1.0, "1.0": 1.0, "2.0": 0.0, "4.0": 0.0}


@pytest.mark.parametrize(
    ("aligned", "residual", "test", "expected"),
    [
        (0.0, 0.0, 100, "replica"),
        (0.24, 0.0, 100, "replica"),
        (0.3, 0.14, 100, "interpolation"),
        (0.3, 0.16, 100, "replica"),
        (0.74, 0.7, 100, "replica"),
        (0.76, 0.3, 90, "interpolation"),
        (0.76, 0.7, 98.9, "inaccurate"),
        (0.76, 0.7, 99.1, "novel"),
        (1.5, 1.4, 99.1, "novel"),
    ],
)
def test_verdict_by_hand(aligned: float, residual: float, test: float, expected: str) -> None:
    """Training runs are 1 apart."""
    originals = pd.DataFrame({"aligned": [0.01] * 2, "aligned_across": [0.9, 1.1], "test": [100.0] * 2})
    samples = pd.DataFrame({"aligned": [aligned], "residual": [residual], "test": [test]})
    assert verdict(samples, originals) == expected


def test_verdict_beside_a_single_run() -> None:
    samples = pd.DataFrame({"aligned": [0.1], "residual": [0.0], "test": [100.0]})
    one_run = pd.DataFrame({"aligned": [0.1, 0.1], "test": [100.0] * 2})
    assert verdict(samples, one_run) == "interpolation"
    assert verdict(samples.assign(aligned=0.01), one_run) == "replica"
    # One checkpoint has no other to be compared with.
    assert verdict(samples, pd.DataFrame({"aligned": [np.nan], "test": [100.0]})) == "none"


def test_tasks_are_told_apart(tasks: Path) -> None:
    """Three sets of two samples each, compared with originals for the same code, and the formulas from the code."""
    found = json.loads((tasks / "results/tasks/novelty.json").read_text())
    assert {name: of["n"] for name, of in found["rpg"].items()} == {"held_out": 2, "seen": 2, "held_out_pairs": 2}
    others = {"untuned", "hypernetwork", "ridge", "ridge_pairs", "nearest_task", "mean_network"}
    assert others | {"noise 0.1"} <= set(found["baselines"])
    assert all(set(found["baselines"][kind]) == set(found["rpg"]) for kind in others)
    # Of a code that no checkpoint was learned for there is none to put noise on.
    assert "held_out" not in found["baselines"]["noise 0.1"]
    novelty = open_novelty(tasks, "tasks")
    for sample in novelty.rpg_samples:
        row = novelty.row(sample)
        rivals = [other for other in [*novelty.originals, *novelty.held_out] if other.code == sample.code]
        nearest = nearest_of(novelty, sample, rivals)
        assert row["disagreement"] == 100 * np.mean(nearest.answers != sample.answers)
        assert row["set"] == novelty.store.task_set(sample.state, sample.code)


def test_a_network_at_its_point_is_itself(novelty: NoveltyAnalysis) -> None:
    sample = novelty.samples[0]
    (again,) = novelty.judge(iter([novelty.network_at("RPG", sample.state, None, sample.point_P)]))
    assert np.mean(again.answers == sample.answers) > 0.995
