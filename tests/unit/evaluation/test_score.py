import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import FEW, MINIATURE, run_layers
from safetensors.torch import load_file

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.data import scenes as data_scenes
from rpg.data.digits import load_digits_images
from rpg.tasks.loading import load_task

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


def test_score_of_one_file(finished: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    scores = json.loads(Path("results/mini/scores.json").read_text())
    main(["score", "--experiment", "mini", "--weights", "results/mini/samples/0002.safetensors"])
    assert capsys.readouterr().out == f"results/mini/samples/0002.safetensors: top1 {scores['rpg'][2]['test']:.2f}\n"


def test_scoring_again_gives_the_same_bytes(finished: Path) -> None:
    path = finished / "results/mini/scores.json"
    before = path.read_bytes()
    run_layers(finished, "score")
    assert path.read_bytes() == before


def test_all_metrics_of_segmentation(found: Path, monkeypatch) -> None:
    monkeypatch.chdir(found)
    for name, count in FEW.items():
        monkeypatch.setattr(data_scenes, name, count)
    scores = json.loads(Path("results/scenes/scores.json").read_text())
    metrics = json.loads(Path("results/scenes/metrics.json").read_text())
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


def test_metrics_of_task_codes_by_set(tasks: Path) -> None:
    folder = tasks / "results/tasks"
    scores, metrics = (json.loads((folder / name).read_text()) for name in ("scores.json", "metrics.json"))
    methods = {"untuned", "hypernetwork", "nearest_task", "ridge", "ridge_pairs", "mean_network", "majority_class"}
    assert set(metrics["baselines"]) == methods
    # RPG makes three networks of each code in two states, the others one of each.
    counts = {"seen": 10, "held_out_pairs": 2, "held_out": 4}
    assert {name: metrics[name]["n"] for name in counts} == {"seen": 15, "held_out_pairs": 3, "held_out": 6}
    assert metrics["rpg"]["n"] == 24
    for kind, by_set in {"original": metrics["original_by_set"], "rpg": metrics, **metrics["baselines"]}.items():
        for name in counts:
            values = [entry["test"] for entry in scores[kind] if entry["set"] == name]
            assert by_set[name]["n"] == len(values), kind
            assert kind == "rpg" or len(values) == counts[name], kind
            assert by_set[name]["mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_nearest_task_of_a_seen_task_is_its_original(tasks: Path) -> None:
    scores = json.loads((tasks / "results/tasks/scores.json").read_text())
    originals = {(entry["seed"], entry["code"]): entry["test"] for entry in scores["original"]}
    for entry in scores["nearest_task"]:
        if entry["set"] == "seen":
            assert entry["test"] == pytest.approx(originals[entry["state"], entry["code"]], abs=0.2)


def test_file_without_a_task_needs_one(tasks: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tasks)
    arguments = ["score", "--experiment", "tasks", "--weights", "results/tasks/samples/0000.safetensors"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "names no task; add --classes or --code" in capsys.readouterr().err
    scores = json.loads(Path("results/tasks/scores.json").read_text())
    main([*arguments, "--classes", "1,4,5,6,8"])
    assert capsys.readouterr().out.endswith(f"top1 {scores['rpg'][0]['test']:.2f}\n")
