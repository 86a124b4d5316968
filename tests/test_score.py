import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import MINIATURE, run_layers
from safetensors.torch import load_file

from rpg.cli import main
from rpg.data.digits import load_digits_images
from rpg.params import load_params
from rpg.tasks import load_task

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
