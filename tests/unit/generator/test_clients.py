"""The tools that people use open generated networks: their own functions, on the miniatures' packed generators.

lm-evaluation-harness is in tests/integration/test_harness.py.
"""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import timm
import torch
from conftest import ADAPTERS, openmmlab_task, run_layers, write_tree
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rpg import Generator
from rpg.cli import main

LORA = {"kind": "lora", "rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]}
WORDS = torch.tensor([[1, 2, 3, 4]])


def generated(folder: Path, name: str, out: Path, monkeypatch: pytest.MonkeyPatch, *request: str) -> Generator:
    """Pack an experiment, leave its checkout for the folder of `out`, and write a generated network to `out`."""
    monkeypatch.chdir(folder)
    packed = out.parent / "packed"
    main(["pack", "--experiment", name, "--out", str(packed), "--no-graph"])
    monkeypatch.chdir(out.parent)
    main(["generate", "--generator", str(packed), "--seed", "2", *request, "--out", out.name])
    return Generator.from_pretrained(packed)


def same(found: Any, expected: Any) -> bool:
    return all(torch.equal(found[name], tensor) for name, tensor in expected.items()) and len(found) == len(expected)


@pytest.fixture
def picture(scenes: Path) -> str:
    """An image of a scene."""
    folder = openmmlab_task("detection").folder  # type: ignore[attr-defined]
    return str(sorted((scenes / folder).rglob("*.jpg"))[0])


def test_mmdet(detectors: Path, picture: str, tmp_path: Path, monkeypatch) -> None:
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    generator = generated(detectors, "boxes", tmp_path / "w.safetensors", monkeypatch)
    main(["export", "--format", "mmengine", "--generator", "packed", "--weights", "w.safetensors", "--out", "made"])
    network = init_detector("made/network.py", "made/network.pth", device="cpu")
    assert network.dataset_meta["classes"] == tuple("0123456789")
    assert same(network.state_dict(), generator.generate(seed=2))
    found = inference_detector(network, picture).pred_instances
    inferencer = DetInferencer(model="made/network.py", weights="made/network.pth", device="cpu", show_progress=False)
    (other,) = inferencer(picture, no_save_vis=True)["predictions"]
    assert len(found.scores) > 0
    assert other["scores"] == pytest.approx(found.scores.tolist())
    assert other["labels"] == found.labels.tolist()


def test_mmseg(found: Path, picture: str, tmp_path: Path, monkeypatch) -> None:
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    generator = generated(found, "scenes", tmp_path / "w.safetensors", monkeypatch)
    main(["export", "--format", "mmengine", "--generator", "packed", "--weights", "w.safetensors", "--out", "made"])
    network = init_model("made/network.py", "made/network.pth", device="cpu")
    assert network.dataset_meta["classes"] == ("background", *"0123456789")
    assert same(network.state_dict(), generator.generate(seed=2))
    labels = inference_model(network, picture).pred_sem_seg.data[0]
    inferencer = MMSegInferencer(model="made/network.py", weights="made/network.pth", device="cpu")
    assert (inferencer(picture)["predictions"] == labels.numpy()).all()


def test_mmengine_reads_no_safetensors(found: Path, tmp_path: Path, monkeypatch) -> None:
    """The reason for `rpg export --format mmengine`."""
    from mmengine.runner import load_checkpoint

    generator = generated(found, "scenes", tmp_path / "w.safetensors", monkeypatch)
    with pytest.raises(Exception, match="invalid load key"):
        load_checkpoint(generator.network(seed=1), "w.safetensors")


def test_timm(tasks: Path, tmp_path: Path, monkeypatch) -> None:
    generator = generated(tasks, "tasks", tmp_path / "w.safetensors", monkeypatch, "--classes", "3,8")
    chosen = json.loads(Path("packed/config.json").read_text())["task"]["network"]
    network = timm.create_model(chosen["name"], checkpoint_path="w.safetensors", **chosen["arguments"])
    assert same(network.state_dict(), generator.generate(classes=[3, 8], seed=2))
    main(["export", "--format", "pth", "--weights", "w.safetensors", "--out", "w.pth"])
    assert same(torch.load("w.pth", weights_only=True), network.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_torch_export_and_onnx(kind: str, request, tmp_path: Path, monkeypatch) -> None:
    fixture, name, shape = {
        "classification": ("tasks", "tasks", (1, 8, 8)),
        "segmentation": ("found", "scenes", (3, 32, 32)),
    }[kind]
    with torch.enable_grad():
        # This may train the miniature.
        folder = request.getfixturevalue(fixture)
    generator = generated(folder, name, tmp_path / "w.safetensors", monkeypatch)
    network, images = generator.network(load_file("w.safetensors")), torch.rand(2, *shape)
    exported = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(exported, "w.pt2")
    more = torch.rand(5, *shape)
    torch.testing.assert_close(torch.export.load("w.pt2").module()(more), network(more))
    if kind == "classification":
        # What `rpg export` calls, by hand.
        torch.onnx.export(network, (images,), "hand.onnx", dynamo=True, verbose=False, input_names=["images"])
        (found,) = onnxruntime.InferenceSession("hand.onnx").run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(images))
    main(["export", "--format", "onnx", "--generator", "packed", "--weights", "w.safetensors", "--out", "w.onnx"])
    (found,) = onnxruntime.InferenceSession("w.onnx").run(None, {"images": more.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(more), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_peft(adapters: Path, tmp_path: Path, monkeypatch) -> None:
    generator = generated(adapters, "adapters", tmp_path / "adapter", monkeypatch)
    model = AutoModelForCausalLM.from_pretrained("packed/language_model")
    merged: Any = PeftModel.from_pretrained(model, "adapter").merge_and_unload().eval()
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(merged(WORDS).logits, generator.network(seed=2)(WORDS).logits)


def test_transformers(tmp_path: Path, monkeypatch) -> None:
    task = {**ADAPTERS["task"], "model": "results/lora/base/0000", "adapter": LORA}
    write_tree(tmp_path, lora={**ADAPTERS, "task": task})
    run_layers(tmp_path, "base", "zoo", "collect", "tokens", "train", experiment="lora")
    generator = generated(tmp_path, "lora", tmp_path / "adapter", monkeypatch)
    model: Any = AutoModelForCausalLM.from_pretrained("packed/language_model")
    before = model(WORDS).logits
    model.load_adapter("adapter")
    torch.testing.assert_close(model.eval()(WORDS).logits, generator.network(seed=2)(WORDS).logits)
    assert not torch.allclose(model(WORDS).logits, before)


@torch.no_grad()
def test_transformers_and_dora(adapters: Path, tmp_path: Path, monkeypatch) -> None:
    """transformers 5.23.0 drops DoRA's magnitudes, also from a file of peft's; peft's own function puts them in."""
    model: Any = AutoModelForCausalLM.from_pretrained(adapters / "results/adapters/base/0000")
    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, init_lora_weights=False, task_type="CAUSAL_LM")
    by_peft = get_peft_model(model, config)
    by_peft.save_pretrained(str(tmp_path / "peft"))
    magnitudes = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert [name for name in magnitudes if name.endswith("magnitude_vector")]
    model = AutoModelForCausalLM.from_pretrained(adapters / "results/adapters/base/0000")
    told = model.load_adapter(str(tmp_path / "peft"))
    assert all("lora_magnitude_vector" in name for name in told.unexpected_keys | told.missing_keys)
    assert told.missing_keys, "transformers reads DoRA now: shorten docs/guides/carry.md"
    generator = generated(adapters, "adapters", tmp_path / "adapter", monkeypatch)
    model = AutoModelForCausalLM.from_pretrained("packed/language_model")
    model.load_adapter("adapter")
    set_peft_model_state_dict(model, load_file("adapter/adapter_model.safetensors"), adapter_name="default")
    torch.testing.assert_close(model.eval()(WORDS).logits, generator.network(seed=2)(WORDS).logits)


@pytest.mark.parametrize("experiment", ["tasks", "scenes", "adapters"])
def test_huggingface_hub_reads_the_cards(experiment: str, request, tmp_path: Path, monkeypatch) -> None:
    """`ModelCard.validate` asks the hub's server; what can be checked without it is."""
    folder = request.getfixturevalue({"scenes": "found"}.get(experiment, experiment))
    out = "w" if experiment == "adapters" else "w.safetensors"
    generated(folder, experiment, tmp_path / out, monkeypatch)
    for path in (tmp_path / "packed/README.md", folder / f"results/{experiment}/README.md"):
        card = ModelCard.load(path)
        results = card.data.eval_results
        assert results
        again = ModelCard(str(card))
        assert again.data.to_dict() == card.data.to_dict()
        assert again.data.eval_results == results
        # The hub merges results of the same data set, configuration, split and metric.
        assert len({one.unique_identifier for one in results}) == len(results)
        assert isinstance(results[0].metric_value, float)
        assert card.data.license == "apache-2.0"
