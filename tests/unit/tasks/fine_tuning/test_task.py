"""Fine-tuning of a small timm network on a miniature of ImageNet."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import BASE_LAYERS, MINIATURE, run_layers, write_tree
from miniatures import CLASSES, write_folders

from rpg.tasks.config import Run
from rpg.tasks.fine_tuning.config import FineTuningTask, FineTuningZoo, PretrainedBase
from rpg.tasks.fine_tuning.task import FineTuning
from rpg.tasks.loading import load_task
from rpg.utils.errors import UserError
from rpg.utils.files import read_tensors, write_tensors

NETWORK = {"name": "test_resnet.r160_in1k", "arguments": {"num_classes": 3}}
RUN = Run(seed=0, code=None, held_out=False)


def zoo(**changes: object) -> FineTuningZoo:
    block = {"seeds": [0], "runs_per_shard": 1, "steps": 2, "saves": 2, "save_every": 1, "batch": 6}
    block |= {"learning_rate": 0.001, "weight_decay": 0.1, "precision": "float32"}
    return FineTuningZoo.model_validate({**block, **changes})


def task(**changes: object) -> FineTuning:
    block = {"kind": "fine_tuning", "data": "imagenet", "network": NETWORK, "validation": 6, "workers": 0}
    made = load_task(FineTuningTask.model_validate({**block, **changes}), None)
    assert isinstance(made, FineTuning)
    return made


@pytest.fixture
def weights(tmp_path: Path, monkeypatch) -> Path:
    """RPG_DATA with a miniature of ImageNet, and a file of weights of a network for 5 classes."""
    write_folders(tmp_path / "imagenet")
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    torch.manual_seed(7)
    path = tmp_path / "weights.safetensors"
    write_tensors(path, task(network={**NETWORK, "arguments": {"num_classes": 5}}).build().state_dict())
    return path


def trained(of: FineTuning, start: dict, **changes: object) -> list[dict]:
    saved: list[dict] = []
    of.train(zoo(**changes), [RUN], [start], lambda step, state_dicts: saved.extend(state_dicts))
    return saved


def test_networks_start_from_the_weights_and_learn(weights: Path) -> None:
    ours = task()
    ours.check()
    base = PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=None)
    start = ours.train_base(base, 0)
    # The head has another number of classes, so it is the seed's.
    given = read_tensors(weights)
    assert [name for name in start if not torch.equal(start[name], given[name])] == ["fc.weight", "fc.bias"]
    assert start["fc.weight"].shape[0] == 3
    assert torch.equal(start["fc.weight"], ours.train_base(base, 0)["fc.weight"])
    saved = trained(ours, start, steps=30, saves=2, save_every=2, learning_rate=0.01)
    assert len(saved) == 2
    assert not torch.equal(saved[0]["fc.weight"], saved[1]["fc.weight"])
    # Three colours are told apart.
    assert ours.score(saved[1]) == 100.0
    judged = ours.judge(saved[1], "test")
    assert torch.equal(judged.answers, ours.targets("test"))
    assert saved[1].keys() == start.keys()


def test_same_bytes_whatever_reads_the_images(weights: Path) -> None:
    start = task().train_base(PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=None), 0)
    by_itself, by_two = (trained(task(workers=workers), start)[-1] for workers in (0, 2))
    assert all(torch.equal(by_itself[name], by_two[name]) for name in by_itself)


def test_transforms_are_timms_at_its_two_resolutions(weights: Path) -> None:
    ours = task()
    assert ours.transform(training=True)(ours.data.train[0]).shape == (3, 160, 160)
    # timm's scores of these weights are at another resolution than their training.
    large = task(network={"name": "convnext_atto.d2_in1k", "arguments": {"num_classes": 3}})
    assert large.transform(training=True)(ours.data.train[0]).shape == (3, 224, 224)
    assert large.transform(training=False)(ours.data.train[0]).shape == (3, 288, 288)


@pytest.mark.parametrize(("size", "shape"), [(32, (3, 32, 32)), ([32, 64], (3, 32, 64))])
def test_the_networks_own_size_goes_before_its_weights(weights: Path, size: int | list[int], shape: tuple) -> None:
    """timm 1.0.31: `resolve_data_config` reads the weights' resolution and not the network's `img_size`."""
    network = {"name": "vit_tiny_patch16_224", "arguments": {"num_classes": 3, "img_size": size}}
    ours = task(network=network)
    for training in (True, False):
        assert ours.transform(training=training)(ours.data.train[0]).shape == shape
    ours.check()


def test_published_accuracy_is_checked(weights: Path) -> None:
    ours = task()
    start = ours.train_base(PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=None), 0)
    found = ours.score(start)
    ours.train_base(PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=found), 0)
    with pytest.raises(UserError, match=rf"base.top1: the weights reach {found:.2f} %, not 69.76 %;"):
        ours.train_base(PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=69.76), 0)


def test_faults_are_one_line(weights: Path, monkeypatch) -> None:
    # As where there is no network; asking it would take a minute of retries.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"has 3 classes; set num_classes"):
        task(network={**NETWORK, "arguments": {}}).check()
    with pytest.raises(UserError, match=r"network 'no_such': timm refuses it"):
        task(network={"name": "no_such", "arguments": {}}).check()
    with pytest.raises(UserError, match=r"weights of 'test_resnet.r160_in1k' can't be loaded .* base.weights"):
        task().train_base(PretrainedBase(seeds=[0], weights="timm", revision="0" * 40, top1=None), 0)
    with pytest.raises(UserError, match=r"none.safetensors: no such file"):
        task().train_base(PretrainedBase(seeds=[0], weights="none.safetensors", revision=None, top1=None), 0)
    write_tensors(weights, {"other.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"weights.safetensors: not weights of 'test_resnet.r160_in1k'"):
        task().train_base(PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=None), 0)


def test_weights_of_the_hub_are_those_of_one_commit(weights: Path, monkeypatch) -> None:
    asked = []

    def download(repo_id: str, filename: str, revision: str | None = None, **_: object) -> str:
        asked.append((repo_id, revision))
        return str(weights)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    write_tensors(weights, task(network={**NETWORK, "arguments": {}}).build().state_dict())
    commit = "0123456789" * 4
    given = task().train_base(PretrainedBase(seeds=[0], weights="timm", revision=commit, top1=None), 0)
    assert set(asked) == {("timm/test_resnet.r160_in1k", commit)}
    assert torch.equal(given["conv1.0.weight"], read_tensors(weights)["conv1.0.weight"])
    with pytest.raises(UserError, match=r"base.revision: must be the commit of 'timm/test_resnet.r160_in1k'"):
        task().train_base(PretrainedBase(seeds=[0], weights="timm", revision=None, top1=None), 0)
    with pytest.raises(ValueError, match="revision: must be null; weights is a file"):
        PretrainedBase(seeds=[0], weights=str(weights), revision=commit, top1=None)
    with pytest.raises(ValueError, match="revision"):
        PretrainedBase(seeds=[0], weights="timm", revision="main", top1=None)


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_read_is_named(weights: Path, workers: int) -> None:
    start = task().train_base(PretrainedBase(seeds=[0], weights=str(weights), revision=None, top1=None), 0)
    (weights.parent / "imagenet/val" / CLASSES[0] / f"{CLASSES[0]}_1.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^\S*n01440764_1.JPEG: not an image that can be read"):
        task(workers=workers).score(start)


@pytest.mark.integration
def test_every_layer_runs_on_it(weights: Path, tmp_path: Path, monkeypatch) -> None:
    block = {"kind": "fine_tuning", "data": "imagenet", "network": NETWORK, "validation": 6, "workers": 0}
    experiment = {
        **MINIATURE,
        "task": block,
        "base": {"seeds": [0], "weights": str(weights), "revision": None, "top1": None},
        "zoo": zoo(seeds=[0, 1], runs_per_shard=2, steps=60, learning_rate=0.01).model_dump(),
        "tokens": {"width": 4096},
        "train": {**MINIATURE["train"], "steps": 20, "batch": 2},
        "novelty": {"seed": 0, "networks": 2, "noise": [0.1]},
    }
    write_tree(tmp_path, mini=experiment)
    run_layers(tmp_path, *BASE_LAYERS)
    entry = json.loads((tmp_path / "results/metrics.json").read_text())["experiments"]["mini"]
    assert entry["metric"] == "top1"
    assert (entry["original"]["n"], entry["rpg"]["n"]) == (4, 4)
    assert entry["original"]["mean"] == 100.0
    card = (tmp_path / "results/mini/README.md").read_text()
    assert "timm.create_model('test_resnet.r160_in1k', num_classes=3)" in card
