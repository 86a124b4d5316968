import json
from pathlib import Path

import timm
import torch
from conftest import MINIATURE, run_layers
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from rpg.cli import main
from rpg.data.digits import load_digits_images

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


def test_a_better_network_scores_better(finished: Path) -> None:
    """Forty steps of training are above chance, so the score sees more than noise."""
    scores = json.loads((finished / "results/mini/scores.json").read_text())
    assert sum(entry["test"] for entry in scores["original"]) / 6 > 25


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
    assert len(load_digits().target) == 1797
