"""What is planted among the samples must be called what it is."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_layers
from safetensors.torch import load_file, save_file

from rpg.config.experiment import FineTune
from rpg.config.loading import load_params
from rpg.evaluation.alignment import permute
from rpg.evaluation.geometry import ZooPoints
from rpg.evaluation.novelty import (
    FLOOR,
    MeasuredNetwork,
    NoveltyAnalysis,
    iou,
    run_distance,
    summarize,
    verdict,
    vote,
)
from rpg.paths import Paths
from rpg.tasks.config import Run
from rpg.utils.errors import UserError
from rpg.utils.files import file_entry, write_sealed
from rpg.utils.rng import derive


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
    return verdict(samples_rows, originals, novelty.noise_keeps)


def with_zoo(novelty: NoveltyAnalysis, points: list[np.ndarray], seeds: list[int]) -> NoveltyAnalysis:
    """The same analysis beside another zoo: checkpoints at these points, of the training runs `seeds`."""
    planted = copy.copy(novelty)
    planted.zoo = ZooPoints(novelty.space, np.stack(points), np.array(seeds), np.array([""] * len(points)))
    at_points = (novelty.network_at("original", 0, None, point_P) for point_P in points)
    planted.originals = [
        replace(network, index=index, state=seed)
        for index, (network, seed) in enumerate(zip(novelty.judge(at_points), seeds, strict=True))
    ]
    planted._accuracies = {}
    return planted


def noisy(point_P: np.ndarray, level: float, count: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [point_P + level * draw.standard_normal(len(point_P)) for _ in range(count)]


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
        pd.DataFrame(
            [{**smaller.measure(zoo.points_NP[index], own_index=but), "relative": 1.0} for index, but in which]
        )
        for which in (
            [(index, place) for place, index in enumerate(np.flatnonzero(~left_out))],
            [(index, None) for index in np.flatnonzero(left_out)],
        )
    )
    assert verdict(samples, originals, novelty.noise_keeps) == "novel"
    # Noise that left everything as it was would be as far away, and prove as little.
    assert verdict(samples, originals, lambda _distance: 1.0) == "as noise"


@pytest.fixture(scope="module")
def trained_P(novelty: NoveltyAnalysis) -> np.ndarray:
    """The point of an accurate network, as the miniature's are not."""
    zoo = novelty.experiment.zoo.model_copy(update={"steps": 600, "saves": 1, "save_every": 1, "shift": 0})
    saves: list[dict[str, torch.Tensor]] = []
    run = Run(seed=0, code=None, held_out=False)
    novelty.task.train(zoo, [run], [None], lambda _step, state_dicts: saves.extend(state_dicts))
    assert novelty.task.score(saves[0]) > 85
    return novelty.space.point(novelty.store.tokenize(saves[0], 0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_about_fine_tuned_runs_is_not_novel(novelty: NoveltyAnalysis, trained_P: np.ndarray, seed: int) -> None:
    """Three runs from one network are 0.064 apart, a little more than noise that changes nothing."""
    runs = noisy(trained_P, 0.045, 3, seed=seed)
    planted = with_zoo(novelty, runs, [0, 1, 2])
    u = run_distance(pd.DataFrame([planted.row(network) for network in planted.originals]))
    assert FLOOR < u < 0.07
    # Of so small a network even this noise may take more than a percent.
    assert judged(planted, noisy(runs[0], 0.05, 8, seed=10 + seed)) in ("as noise", "replica", "inaccurate")
    assert judged(planted, noisy(runs[0], 0.02, 8, seed=10 + seed)) == "replica"


@pytest.mark.parametrize("best", [False, True])
def test_noise_that_leaves_the_accuracy_is_as_noise(
    novelty: NoveltyAnalysis, trained_P: np.ndarray, monkeypatch: pytest.MonkeyPatch, best: bool
) -> None:
    """As above, with all distances a third, so that noise takes nothing from this network either.

    `best`: the run that the noise is put on is two percent above the mean of all runs.
    """
    monkeypatch.setattr("rpg.evaluation.novelty.FLOOR", FLOOR / 3)
    runs = noisy(trained_P, 0.015, 3, seed=0)
    planted = with_zoo(novelty, runs, [0, 1, 2])
    if best:
        planted._accuracies = {None: planted.originals[0].score / 1.02}
    u = run_distance(pd.DataFrame([planted.row(network) for network in planted.originals]))
    assert FLOOR / 3 < u < 0.07 / 3
    assert judged(planted, noisy(runs[0], 0.05 / 3, 8, seed=1)) == "as noise"


def test_runs_nearer_than_the_floor_give_no_scale(novelty: NoveltyAnalysis) -> None:
    """As of networks that learned almost nothing after their common start."""
    runs = noisy(novelty.zoo.points_NP[-1], 0.02, 3, seed=0)
    planted = with_zoo(novelty, runs, [0, 1, 2])
    assert run_distance(pd.DataFrame([planted.row(network) for network in planted.originals])) < FLOOR
    for level in (0.0, 0.05, 1.0):
        assert judged(planted, noisy(runs[0], level, 2, seed=1)) == "no scale"


def test_one_run_with_many_saves_gives_no_verdict(novelty: NoveltyAnalysis) -> None:
    saves = noisy(novelty.zoo.points_NP[-1], 0.002, 6, seed=0)
    planted = with_zoo(novelty, saves, [0] * 6)
    for level in (0.0, 0.005, 1.0):
        assert judged(planted, noisy(saves[0], level, 2, seed=1)) == "one run"


def test_noise_keeps_by_hand(novelty: NoveltyAnalysis) -> None:
    """Of eight drawn checkpoints plus noise: the mean of their scores, each divided by the originals' mean.

    The noise has the asked distance between canonical points.
    """
    mean, zoo = np.mean([network.score for network in novelty.originals]), novelty.zoo
    draw = np.random.default_rng(derive(novelty.params.seed, "noise test"))
    chosen = draw.integers(len(novelty.originals), size=8)
    assert len(set(chosen.tolist())) > 2
    noises = [draw.standard_normal(zoo.points_NP.shape[1]) for _ in chosen]

    def moved(level: float) -> list[np.ndarray]:
        return [zoo.points_NP[index] + level * noise_P for index, noise_P in zip(chosen, noises, strict=True)]

    def apart(level: float) -> float:
        canonical = [zoo.canonical(zoo.points_NP[index]) for index in chosen]
        pairs = zip(canonical, map(zoo.canonical, moved(level)), strict=True)
        return float(np.median([np.sqrt(np.mean((one - other) ** 2)) for one, other in pairs]))

    for distance in (0.05, 0.3, 0.8):
        # The slow way: the first of many levels that reaches the distance.
        level = next(level for level in np.linspace(0, 2 * distance, 1025)[1:] if apart(level) >= distance)
        networks = zip(chosen, moved(level), strict=True)
        scores = [
            novelty.task.score(novelty.network_at("", novelty.originals[index].state, None, point_P)[1], "test")
            for index, point_P in networks
        ]
        assert novelty.noise_keeps(distance) == pytest.approx(np.mean(scores) / mean, abs=2e-3)
    assert novelty.noise_keeps(0.01) > 0.98
    assert novelty.noise_keeps(0.8) < 0.8


def test_accurate_network_at_a_distance_where_noise_is_not_is_novel(
    novelty: NoveltyAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third run, beside a zoo of the first two; the miniature's networks know too little for noise to destroy."""
    zoo = novelty.zoo
    kept, left_out = np.flatnonzero(zoo.seeds != 2), np.flatnonzero(zoo.seeds == 2)
    planted = with_zoo(novelty, [zoo.points_NP[index] for index in kept], zoo.seeds[kept].tolist())
    points = [zoo.points_NP[index] for index in left_out]
    # Each run's accuracy counts as whole, whatever steps it took.
    planted._accuracies = {None: np.mean([novelty.originals[index].score for index in left_out])}
    asked: list[float] = []
    for keeps, expected in ((0.5, "novel"), (1.0, "as noise")):
        monkeypatch.setattr(planted, "noise_keeps", lambda distance, keeps=keeps: asked.append(distance) or keeps)
        assert judged(planted, points) == expected
    # Noise is tried at the samples' distance.
    distance = np.median([planted.zoo.measure(point_P)["aligned"] for point_P in points])
    assert asked == pytest.approx([distance] * 2)


def test_accuracy_is_that_of_the_same_task(tasks: Path) -> None:
    """A held-out task that is harder than the others: networks as good as its originals are not inaccurate."""
    novelty = open_novelty(tasks, "tasks")
    novelty.originals = [replace(network, score=99.0) for network in novelty.originals]
    sample = next(sample for sample in novelty.rpg_samples if sample.set == "held_out")
    hard = sample.code
    of_hard = sum(network.code == hard for network in novelty.held_out)
    novelty.held_out = [replace(network, score=70.0 if network.code == hard else 99.0) for network in novelty.held_out]
    assert of_hard == 2
    assert novelty.accuracy(hard) == 70.0
    easy = novelty.originals[0].code
    assert novelty.accuracy(easy) == 99.0
    rows = pd.DataFrame([novelty.row(replace(sample, score=69.9)), novelty.row(replace(sample, score=68.0))])
    assert rows["relative"].tolist() == pytest.approx([69.9 / 70, 68 / 70])
    far = rows.assign(aligned=1.0, residual=1.0)
    originals = pd.DataFrame({"aligned_across": [1.0]})
    assert verdict(far[:1], originals, lambda _distance: 0.5) == "novel"
    assert verdict(far[1:], originals, lambda _distance: 0.5) == "inaccurate"
    # The mean over tasks of different difficulty is that of shares, not of scores.
    mixed = pd.DataFrame(
        [novelty.row(replace(sample, score=70.0)), novelty.row(replace(sample, code=easy, score=98.5))]
    )
    found = verdict(mixed.assign(aligned=1.0, residual=1.0), originals, lambda _distance: 0.5)
    assert found == "novel"


def test_a_few_baselines_are_aligned_whether_near_or_not(novelty: NoveltyAnalysis, finished: Path) -> None:
    """A verdict is on the first networks of a kind; those that are near keep their distance, an upper bound."""
    planted = copy.copy(novelty)
    zoo = novelty.zoo
    near, far = zoo.points_NP[0] + 0.001, np.random.default_rng(0).standard_normal(zoo.points_NP.shape[1])
    points = [near, near, near, far, far, far]
    networks = list(novelty.judge(novelty.network_at("mixed", 0, None, point_P) for point_P in points))
    planted.baselines = lambda: iter(networks)
    rows = planted.rows().query("networks == 'mixed'")
    assert rows["aligned"].notna().tolist() == [True] * 4 + [False] * 2
    assert rows["aligned"].tolist()[:3] == pytest.approx(rows["distance"].tolist()[:3])
    originals = pd.DataFrame([novelty.row(network) for network in novelty.originals])
    assert verdict(rows, originals, novelty.noise_keeps) == "replica"


def test_mixtures_are_fine_tuned_where_params_say_so(novelty: NoveltyAnalysis) -> None:
    """Each interpolation and mean of runs once more, after training; its point is that of the trained weights."""
    planted = copy.copy(novelty)
    planted.params = novelty.params.model_copy(update={"fine_tune": FineTune(steps=40, images=64, learning_rate=0.003)})
    kinds: dict[str, list] = {}
    for network in planted.baselines():
        kinds.setdefault(network.kind, []).append(network)
    plain = {network.kind for network in novelty.baselines()}
    assert kinds.keys() - plain == {"interpolation across, fine-tuned", "mean across, fine-tuned"}
    for kind in ("interpolation across", "mean across"):
        before, after = kinds[kind], kinds[f"{kind}, fine-tuned"]
        assert len(before) == len(after) == 4
        assert [network.state for network in before] == [network.state for network in after]
        # Three seeds gain 5 points and more.
        assert np.mean([network.score for network in after]) > np.mean([network.score for network in before])
        for network in after:
            _, state_dict = novelty.network_at("", network.state, None, network.point_P)
            assert novelty.task.score(state_dict) == pytest.approx(network.score, abs=0.6)


def test_fine_tuning_needs_a_loss(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapters)
    novelty = open_novelty(Path(), "adapters")
    block = FineTune(steps=1, images=1, learning_rate=0.1)
    novelty.params = novelty.params.model_copy(update={"fine_tune": block})
    with pytest.raises(UserError, match=r"novelty.fine_tune: the task has no differentiable loss; remove the block"):
        list(novelty._baselines())


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
    # Of the other methods a few networks alone are aligned, so all of them are compared by the plain distance.
    main = rows["networks"].isin(["original", "RPG"])
    assert (rows["from_zoo"] == rows["aligned"].where(main, rows["distance"])).all()
    aligned = rows[~main].groupby("networks")["aligned"].count()
    assert set(aligned) == {4}


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
    tuned, rule = (
        {"0": 100.0, "1": 100.0},
        {"copy": 0.25, "near": 0.75, "combined": 0.5, "accurate": 0.99, "floor": 0.05},
    )
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
    frame = pd.DataFrame(rows, columns=columns)
    found = summarize(frame.assign(relative=frame["test"] / frame["run"].map(tuned)), lambda _distance: 1.0)
    assert found["rule"] == rule
    assert found["original"]["verdict"] == "original"
    # No units were permuted, so the distance counts: 0.3 of 1.
    assert found["baselines"]["noise 0.1"]["all"]["verdict"] == "replica"
    sample = found["rpg"]["all"]
    assert sample["verdict"] == "interpolation"
    assert sample["novel"] == {"0.5": 0.3333, "1.0": 0.3333, "2.0": 0.3333, "4.0": 0.0}
    assert (sample["distance"], sample["n"]) == (2.5, 3)
    assert sample["median"] == {"distance": 0.6, "aligned": 0.5, "residual": 0.2}
    assert found["zoo"] == {"distance": 0.2, "aligned": 0.2, "aligned_across": 1.0, "residual": 0.9}
    assert found["original"]["novel"]["1.0"] == 0.3333
    assert found["baselines"]["noise 0.1"]["all"]["novel"] == {"0.5": 1.0, "1.0": 1.0, "2.0": 0.0, "4.0": 0.0}


@pytest.mark.parametrize(
    ("aligned", "residual", "relative", "kept", "expected"),
    [
        (0.0, 0.0, 1.0, 1.0, "replica"),
        (0.24, 0.0, 1.0, 1.0, "replica"),
        (0.3, 0.14, 1.0, 1.0, "interpolation"),
        (0.3, 0.16, 1.0, 1.0, "replica"),
        (0.74, 0.7, 1.0, 0.5, "replica"),
        (0.76, 0.3, 0.9, 0.5, "interpolation"),
        (0.76, 0.7, 0.989, 0.5, "inaccurate"),
        (0.76, 0.7, 0.991, 0.5, "novel"),
        (0.76, 0.7, 1.0, 0.989, "novel"),
        (0.76, 0.7, 1.0, 0.991, "as noise"),
        # Networks that are better than the originals' mean, as noise on the best run is.
        (0.76, 0.7, 1.05, 1.0, "as noise"),
        (0.76, 0.7, 1.05, 0.989, "novel"),
        (0.76, 0.7, 0.995, 0.986, "as noise"),
        (0.76, 0.7, 0.989, 1.0, "inaccurate"),
        (1.5, 1.4, 0.991, 0.5, "novel"),
    ],
)
@pytest.mark.parametrize("u", [1.0, 0.06])
def test_verdict_by_hand(
    u: float, aligned: float, residual: float, relative: float, kept: float, expected: str
) -> None:
    """Training runs are u apart; the distances are shares of u."""
    originals = pd.DataFrame({"aligned_across": [0.9 * u, 1.1 * u]})
    distances = {"distance": [2 * u], "aligned": [aligned * u], "residual": [residual * u]}
    asked: list[float] = []

    def noise_keeps(distance: float) -> float:
        asked.append(distance)
        return kept

    assert verdict(pd.DataFrame({**distances, "relative": [relative]}), originals, noise_keeps) == expected
    # The test of a distance takes seconds, so it is the last.
    assert asked == pytest.approx([aligned * u] if expected in ("novel", "as noise") else [])


def test_verdict_without_a_scale() -> None:
    samples = pd.DataFrame({"distance": [0.1], "aligned": [0.1], "residual": [0.0], "relative": [1.0]})
    assert verdict(samples, pd.DataFrame({"aligned": [0.1, 0.1]}), lambda _distance: 1.0) == "one run"
    # One checkpoint has no other to be compared with.
    assert verdict(samples, pd.DataFrame({"aligned_across": [np.nan]}), lambda _distance: 1.0) == "one run"
    near = pd.DataFrame({"aligned_across": [0.049, 0.049]})
    assert verdict(samples, near, lambda _distance: 1.0) == "no scale"


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


@pytest.mark.parametrize(
    ("aligned", "residual", "relative", "kept", "expected"),
    [
        # The distances alone decide.
        (0.1, 0.09, [np.nan], 1.0, "replica"),
        (1.0, 0.1, [np.nan], 1.0, "interpolation"),
        (0.6, 0.5, [np.nan], 1.0, "replica"),
        # They do not, and there is no share of all networks, or of all noisy checkpoints.
        (1.0, 0.9, [np.nan], 1.0, "no scale"),
        (1.0, 0.9, [1.0, np.nan, 0.1], 1.0, "no scale"),
        (1.0, 0.9, [1.0], np.nan, "no scale"),
        (1.0, 0.9, [0.5], np.nan, "inaccurate"),
    ],
)
def test_without_a_share_of_the_score_nothing_is_novel(
    aligned: float, residual: float, relative: list[float], kept: float, expected: str
) -> None:
    originals = pd.DataFrame({"aligned_across": [0.9, 1.1]})
    samples = pd.DataFrame({"relative": relative}).assign(distance=2.0, aligned=aligned, residual=residual)
    assert verdict(samples, originals, lambda _distance: kept) == expected
