import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import FEW, MINIATURE, run_layers
from safetensors.torch import load_file
from scipy.stats import t
from torch.optim.swa_utils import update_bn

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.data import scenes as data_scenes
from rpg.data.digits import load_digits_images
from rpg.evaluation.score import CodeBaselines, Scorer, read_samples, score_all
from rpg.paths import Paths
from rpg.stages import BASE_OF_TASK_CODES
from rpg.tasks.classification.task import Classification
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore

NETWORK = MINIATURE["task"]["network"]


def accuracy(path: Path, split: str) -> float:
    """The score worked out again without the project's task code."""
    data = load_digits_images()
    train = data.train.images.float()
    images = (data.split(split).images.float() - train.mean()) / train.std()
    network = timm.create_model(NETWORK["name"], **NETWORK["arguments"]).eval()
    network.load_state_dict(load_file(path))
    with torch.no_grad():
        return (network(images).argmax(1) == data.split(split).labels).double().mean().item() * 100


def test_scores_of_originals_and_samples_are_top1(finished: Path) -> None:
    scores = json.loads((finished / "results/mini/scores.json").read_text())
    assert scores["metric"] == "top1"
    network = timm.create_model(NETWORK["name"], **NETWORK["arguments"])
    assert scores["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert [len(scores["original"]), len(scores["rpg"])] == [6, 4]
    for kind, folder in (("original", "zoo"), ("rpg", "samples")):
        for entry in (scores[kind][0], scores[kind][-1]):
            path = finished / "results/mini" / folder / Path(entry["file"]).name
            path = path if path.exists() else finished / "results/mini" / folder / entry["file"]
            for split in ("validation", "test"):
                assert abs(entry[split] - accuracy(path, split)) < 1e-9


def test_answers_are_those_that_the_scores_are_of(finished: Path) -> None:
    folder = finished / "results/mini"
    scores, answers = json.loads((folder / "scores.json").read_text()), load_file(folder / "answers.safetensors")
    assert answers.keys() == {entry["sha256"] for kind in ("original", "rpg") for entry in scores[kind]}
    labels = load_digits_images().test.labels
    for entry in [*scores["original"], *scores["rpg"]]:
        assert 100 * (answers[entry["sha256"]] == labels).double().mean() == pytest.approx(entry["test"])


@pytest.mark.parametrize("answer", [0, 7])
def test_network_that_always_answers_the_same_scores_that_class_s_share(finished: Path, tmp_path: Path, answer) -> None:
    state_dict = load_file(finished / "results/mini/samples/0000.safetensors")
    state_dict["fc.weight"].zero_()
    state_dict["fc.bias"].copy_(torch.arange(10) == answer)
    data = load_digits_images()
    task = load_task(load_params(finished / "params.yaml").experiment("mini").task, None)
    for split in ("train", "validation", "test"):
        share = (data.split(split).labels == answer).double().mean().item() * 100
        assert task.score(state_dict, split) == pytest.approx(share, abs=1e-9)


def test_scoring_again_gives_the_same_bytes(finished: Path) -> None:
    path = finished / "results/mini/scores.json"
    before = path.read_bytes()
    run_layers(finished, "score")
    assert path.read_bytes() == before


def test_answers_of_older_code_are_not_taken(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped job goes on from answers that are kept in a folder of its own code."""
    kept, folders = Paths("mini", finished / "results").kept("score"), set()
    judge_all = Classification.judge_all

    def judged(self: Classification, networks: list, split: str, codes: list, folder: Path, **named: bool) -> list:
        folders.add(folder.relative_to(kept).as_posix())
        return judge_all(self, networks, split, codes, folder, **named)

    monkeypatch.setattr(Classification, "judge_all", judged)
    (kept / "older").mkdir(parents=True)
    for digest in ("a" * 64, "b" * 64):
        monkeypatch.setattr("rpg.evaluation.score.code_digest", lambda stage, task, digest=digest: digest)
        experiment = load_params(finished / "params.yaml").experiment("mini")
        score_all(experiment, Paths("mini", finished / "results"), None)
    assert folders == {"a" * 16, "b" * 16}
    assert not kept.exists()


def test_all_metrics_of_segmentation(found: Path, monkeypatch) -> None:
    monkeypatch.chdir(found)
    for name, count in FEW.items():
        monkeypatch.setattr(data_scenes, name, count)
    scores = json.loads(Path("results/scenes/scores.json").read_text())
    metrics = json.loads(Path("results/scenes/test.json").read_text())
    # Choices need the main metric alone.
    assert "others" not in json.loads(Path("results/scenes/metrics.json").read_text())
    assert [len(scores["original"]), len(scores["rpg"])] == [4, 3]
    task = load_task(load_params().experiment("scenes").task, None)
    for entry, folder in ((scores["original"][-1], "zoo"), (scores["rpg"][0], "samples")):
        judged = task.judge(load_file(Path("results/scenes") / folder / entry["file"]), "test").scores
        assert judged == {"mIoU": entry["test"], **entry["others"]}
    for name in ("mAcc", "aAcc"):
        values = [entry["others"][name] for entry in scores["rpg"]]
        assert metrics["others"][name]["rpg"]["mean"] == pytest.approx(sum(values) / 3, abs=1e-4)
        assert metrics["others"][name]["original"]["n"] == 4


def task_accuracy(path: Path, code: str) -> float:
    """The test score in a binary task, worked out again without the project's task code."""
    data = load_digits_images()
    train = data.train.images.float()
    images = (data.test.images.float() - train.mean()) / train.std()
    network = timm.create_model(NETWORK["name"], **{**NETWORK["arguments"], "num_classes": 2}).eval()
    network.load_state_dict(load_file(path))
    shall = torch.tensor([code[label] == "1" for label in data.test.labels.tolist()])
    with torch.no_grad():
        return (network(images).argmax(1).bool() == shall).double().mean().item() * 100


def test_scores_of_task_codes(tasks: Path) -> None:
    folder = tasks / "results/tasks"
    scores = json.loads((folder / "scores.json").read_text())
    for kind, below in (("original", "zoo"), ("rpg", "samples"), ("untuned", "samples"), ("hypernetwork", "samples")):
        for entry in (scores[kind][0], scores[kind][-1]):
            assert abs(entry["test"] - task_accuracy(folder / below / entry["file"], entry["code"])) < 1e-9
    learned = {(entry["seed"], entry["code"]) for entry in scores["original"] if not entry["held_out"]}
    seen = {code for _, code in learned}
    for entry in scores["rpg"]:
        pair = entry["state"], entry["code"]
        assert entry["set"] == ("held_out" if pair[1] not in seen else "seen" if pair in learned else "held_out_pairs")


WITH_WEIGHTS = {"untuned", "hypernetwork", "nearest_task", "ridge", "ridge_pairs", "mean_network"}
RECOUNTED = {f"{kind}_recounted" for kind in (*WITH_WEIGHTS, "original", "rpg")}
OF_BASE = {"base_lookup", "base_probe"}
# The miniature's sets, with the number of (state, code) pairs of each.
PAIRS = {"seen": 10, "held_out_pairs": 2, "held_out": 4}
SPLITS = [("metrics.json", "validation"), ("test.json", "test")]


def read_scores(tasks: Path, name: str = "scores.json") -> dict:
    return json.loads((tasks / "results/tasks" / name).read_text())


@pytest.mark.parametrize(("file", "split"), SPLITS)
def test_metrics_of_task_codes_by_set(tasks: Path, file: str, split: str) -> None:
    scores, metrics = read_scores(tasks), read_scores(tasks, file)
    assert metrics["split"] == split
    assert set(metrics["baselines"]) == WITH_WEIGHTS | RECOUNTED | OF_BASE | {"majority_class"}
    # RPG makes three networks of each code in two states, the others one of each.
    assert {name: metrics[name]["n"] for name in PAIRS} == {name: 3 * count // 2 for name, count in PAIRS.items()}
    assert metrics["rpg"]["n"] == 24
    for kind, by_set in {"original": metrics["original_by_set"], "rpg": metrics, **metrics["baselines"]}.items():
        for name in PAIRS:
            values = [entry[split] for entry in scores[kind] if entry["set"] == name]
            assert by_set[name]["n"] == len(values), kind
            assert kind == "rpg" or len(values) == PAIRS[name], kind
            assert by_set[name]["mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)


@pytest.mark.parametrize(("file", "split"), SPLITS)
def test_metrics_are_of_their_split(finished: Path, file: str, split: str) -> None:
    scores, metrics = (json.loads((finished / "results/mini" / name).read_text()) for name in ("scores.json", file))
    assert metrics["split"] == split
    assert "baselines" not in metrics
    means = {}
    for kind in ("original", "rpg"):
        values = [entry[split] for entry in scores[kind]]
        assert [metrics[kind][key] for key in ("mean", "min", "best")] == pytest.approx(
            [np.mean(values), min(values), max(values)], abs=1e-4
        )
        means[kind] = np.mean(values)
    assert metrics["differences"].keys() == {"original"}
    assert metrics["differences"]["original"]["all"]["mean"] == pytest.approx(
        means["rpg"] - means["original"], abs=1e-4
    )


def by_code(entries: list[dict], split: str) -> dict[str, list[float]]:
    grouped: dict[str, list[float]] = {}
    for entry in entries:
        grouped.setdefault(entry["code"], []).append(entry[split])
    return grouped


@pytest.mark.parametrize(("file", "split"), SPLITS)
def test_differences_are_those_of_the_means(tasks: Path, file: str, split: str) -> None:
    scores, metrics = read_scores(tasks), read_scores(tasks, file)
    rivals = {"original", *metrics["baselines"]}
    assert metrics["differences"].keys() == rivals
    for kind in rivals:
        sets = [*PAIRS, "all"] if kind == "original" else PAIRS
        assert metrics["differences"][kind].keys() == set(sets)
        for name in sets:
            own, other = (
                np.mean([entry[split] for entry in scores[each] if name in ("all", entry["set"])])
                for each in ("rpg", kind)
            )
            assert metrics["differences"][kind][name]["mean"] == pytest.approx(own - other, abs=1e-4)


@pytest.mark.parametrize("kind", ["original", "untuned"])
def test_interval_of_a_difference_by_hand(tasks: Path, kind: str) -> None:
    """The variance over the tasks, paired, plus the one over the test images, paired (the answers are kept)."""
    scores, answers = read_scores(tasks), load_file(tasks / "results/tasks/answers.safetensors")
    labels = load_digits_images().test.labels.tolist()
    own, other = ([entry for entry in scores[each] if entry["set"] == "seen"] for each in ("rpg", kind))

    def right(entry: dict) -> np.ndarray:
        return answers[entry["sha256"]].numpy() == [int(entry["code"][label]) for label in labels]

    means = [np.mean([entry["test"] for entry in entries]) for entries in (own, other)]
    codes = {entry["code"] for entry in [*own, *other]}
    parts = np.array([
        sum(score - means[0] for score in by_code(own, "test").get(code, [])) / len(own)
        - sum(score - means[1] for score in by_code(other, "test").get(code, [])) / len(other)
        for code in codes
    ])  # fmt: skip
    groups = len(codes)
    assert groups == 6
    gains = 100 * (np.mean([right(entry) for entry in own], 0) - np.mean([right(entry) for entry in other], 0))
    variances = [groups / (groups - 1) * (parts**2).sum(), gains.var(ddof=1) / len(gains)]
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / (groups - 1) + variances[1] ** 2 / (len(gains) - 1))
    reach = t.ppf(0.975, freedom) * np.sqrt(sum(variances))
    found = read_scores(tasks, "test.json")["differences"][kind]["seen"]
    mean = means[0] - means[1]
    assert found["interval"] == pytest.approx([mean - reach, mean + reach], abs=1e-3)


@pytest.mark.parametrize(("kind", "folder"), [("original", "zoo"), ("rpg", "samples"), ("hypernetwork", "samples")])
def test_recounted_rows_are_the_networks_with_torch_s_statistics(tasks: Path, kind: str, folder: str) -> None:
    """The trained network, or the first sample, of a state and code; its statistics by torch's `update_bn`."""
    scores, data = read_scores(tasks), load_digits_images()
    train = data.train.images.float()
    of_split = {split: (data.split(split).images.float() - train.mean()) / train.std() for split in ("train", "test")}
    parts = of_split["train"][:500].chunk(2)
    for entry in scores[f"{kind}_recounted"][::5]:
        state = "seed" if kind == "original" else "state"
        first = next(one for one in scores[kind] if (one[state], one["code"]) == (entry["state"], entry["code"]))
        network = timm.create_model(NETWORK["name"], **{**NETWORK["arguments"], "num_classes": 2})
        network.load_state_dict(load_file(tasks / "results/tasks" / folder / first["file"]))
        update_bn(parts, network)
        bits = torch.tensor([int(entry["code"][label]) for label in data.test.labels.tolist()])
        with torch.no_grad():
            expected = 100 * (network.eval()(of_split["test"]).argmax(1) == bits).double().mean().item()
        # Networks judged together may answer one image in another way.
        assert entry["test"] == pytest.approx(expected, abs=100.5 / len(bits))


def test_recounted_rows_are_the_task_s_own(tasks: Path) -> None:
    """`Task.recount` of every sample, one by one."""
    scores, task = read_scores(tasks), load_task(load_params(tasks / "params.yaml").experiment("tasks").task, None)
    first = {(one["state"], one["code"]): one["file"] for one in reversed(scores["rpg"])}
    assert len(first) == len(scores["rpg_recounted"]) == sum(PAIRS.values())
    moved = 0
    for entry in scores["rpg_recounted"]:
        (network,) = task.recount(
            [load_file(tasks / "results/tasks/samples" / first[entry["state"], entry["code"]])], [entry["code"]]
        )
        for split in ("validation", "test"):
            images = len(task.targets(split))
            assert entry[split] == pytest.approx(task.score(network, split, entry["code"]), abs=100.5 / images)
        moved += entry["test"] != next(one["test"] for one in scores["rpg"] if one["code"] == entry["code"])
    assert moved


def test_base_rows_are_of_the_state_s_own_base_network(tasks: Path) -> None:
    """Looked up: the likeliest of ten classes, as the code's bit. The probe: scored as any network of the task."""
    scores, data = read_scores(tasks), load_digits_images()
    task = load_task(load_params(tasks / "params.yaml").experiment("tasks").task, None)
    train, labels = data.train.images.float(), data.test.labels.tolist()
    images = (data.test.images.float() - train.mean()) / train.std()
    files = json.loads((tasks / "results/tasks/base/manifest.json").read_text())["files"]
    classes, probes = [], []
    for entry in files:
        state_dict = load_file(tasks / "results/tasks/base" / entry["file"])
        network = timm.create_model(NETWORK["name"], **NETWORK["arguments"]).eval()
        network.load_state_dict(state_dict)
        with torch.no_grad():
            classes.append(network(images).argmax(1).tolist())
        probes.append(task.base_network(state_dict))
    assert len(classes) == 2
    assert classes[0] != classes[1]
    for entry in scores["base_lookup"]:
        code = entry["code"]
        right = [code[one] == code[label] for one, label in zip(classes[entry["state"]], labels, strict=True)]
        assert entry["test"] == pytest.approx(100 * np.mean(right))
    for entry in scores["base_probe"][::5]:
        expected = task.score(probes[entry["state"]].probe(entry["code"]), "test", entry["code"])
        assert entry["test"] == pytest.approx(expected, abs=100.5 / len(labels))


def test_base_rows_need_a_base_block_and_task_codes(tasks: Path, found: Path, tmp_path: Path) -> None:
    experiment = load_params(tasks / "params.yaml").experiment("tasks")
    paths = Paths("tasks", tasks / "results")
    manifest = read_samples(paths.folder("sample"), 2)[:1]

    def kinds(of: Experiment) -> set[str]:
        scorer = Scorer(load_task(of.task, None), tmp_path)
        return set(CodeBaselines(scorer, of, paths, TokenStore(paths.folder("tokens")), manifest).score())

    assert kinds(experiment) - kinds(experiment.model_copy(update={"base": None})) == OF_BASE
    assert experiment.has(BASE_OF_TASK_CODES)
    # A base without codes: a segmentation.
    assert not load_params(found / "params.yaml").experiment("scenes").has(BASE_OF_TASK_CODES)
    assert not experiment.model_copy(update={"base": None}).has(BASE_OF_TASK_CODES)
    assert not OF_BASE & json.loads((found / "results/scenes/scores.json").read_text()).keys()


def test_majority_is_the_answer_of_the_training_images(tasks: Path) -> None:
    data = load_digits_images()
    for entry in read_scores(tasks)["majority_class"]:
        train, test = (
            [int(entry["code"][label]) for label in data.split(split).labels.tolist()] for split in ("train", "test")
        )
        answer = max((0, 1), key=train.count)
        assert entry["test"] == pytest.approx(100 * test.count(answer) / len(test))


def test_nearest_task_of_a_seen_task_is_its_original(tasks: Path) -> None:
    scores = json.loads((tasks / "results/tasks/scores.json").read_text())
    originals = {(entry["seed"], entry["code"]): entry["test"] for entry in scores["original"]}
    for entry in scores["nearest_task"]:
        if entry["set"] == "seen":
            assert entry["test"] == pytest.approx(originals[entry["state"], entry["code"]], abs=0.2)
