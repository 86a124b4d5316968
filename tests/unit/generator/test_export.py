"""`rpg export --format pth|onnx|mmengine`: what it writes, and one line for what it can't write."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from conftest import run_layers
from safetensors.torch import load_file, save_file

from rpg import Generator
from rpg.cli import main


@pytest.fixture
def weights(tasks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A generated network; the working directory is that of its experiment."""
    monkeypatch.chdir(tasks)
    path = tmp_path / "w.safetensors"
    main(["generate", "--experiment", "tasks", "--classes", "3,8", "--out", str(path)])
    return path


def export(*arguments: object) -> None:
    main(["export", *map(str, arguments)])


def test_pth_is_a_state_dict(weights: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    for name, options in (("one.pth", []), ("other.pth", ["--experiment", "tasks"])):
        export("--format", "pth", "--weights", weights, "--out", tmp_path / name, *options)
    found, expected = torch.load(tmp_path / "one.pth", weights_only=True), load_file(weights)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    # The bytes do not depend on the file's name.
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "other.pth").read_bytes()
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path}/one.pth: a state dict of {len(expected)} tensors"


def test_onnx_has_any_batch_and_torch_s_outputs(weights: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "network.onnx"
    export("--format", "onnx", "--experiment", "tasks", "--weights", weights, "--out", out)
    assert "bytes, input [any, 1, 8, 8]; onnxruntime's outputs differ from torch's by " in capsys.readouterr().out
    network = Generator.from_experiment("tasks").network(load_file(weights))
    session = onnxruntime.InferenceSession(out)
    for batch in (1, 5):
        images = torch.rand(batch, 1, 8, 8)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network(images))
    # Neither the exporter's notes on source code nor the folder enter the file.
    assert b"rpg/" not in out.read_bytes()
    assert b".py" not in out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "pth"], "--format pth: add --weights FILE"),
        (["--format", "pth", "--weights", "none.safetensors"], "none.safetensors: no such file"),
        (["--format", "pth", "--weights", "W", "--out", "x.onnx"], "--out x.onnx: must be a file .pth or .pt or .bin"),
        (["--format", "onnx", "--weights", "W", "--out", "x.onnx"], "give one of --experiment NAME and --generator"),
        (["--format", "onnx", "--experiment", "tasks", "--weights", "W"], "--out x.pth: must be a file .onnx"),
        (["--format", "mmengine", "--experiment", "tasks", "--weights", "W"], "the network is none of mmdet or mmseg"),
        (["--format", "pth", "--experiment", "tasks", "--weights", "OTHER"], "tensor 'conv1.0.weight' is missing"),
        (["--format", "onnx", "--generator", "none", "--weights", "W"], "none"),
        (
            ["--weights", "W", "--experiment", "tasks"],
            "--format harness: give --experiment NAME and --out FOLDER alone",
        ),
        (["--experiment", "tasks"], "no questions to export; task.kind must be commonsense"),
        (["--format", "tar"], "Invalid value for '--format'"),
    ],
)
def test_bad_input_is_one_line(weights: Path, tmp_path: Path, capsys, arguments: list[str], line: str) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    files = {"W": str(weights), "OTHER": str(tmp_path / "other.safetensors")}
    out = [] if "--out" in arguments else ["--out", "x.pth"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        export(*(files.get(one, one) for one in arguments), *out)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert line in printed.err
    assert not list(Path().glob("x.*"))


def test_networks_without_example_inputs(adapters: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(adapters)
    weights = adapters / "results/adapters/samples/0000/adapter_model.safetensors"
    with pytest.raises(SystemExit):
        export("--format", "onnx", "--experiment", "adapters", "--weights", weights, "--out", tmp_path / "x.onnx")
    assert "the experiment has no example inputs; call torch.onnx.export on your network" in capsys.readouterr().err


def test_a_detector_is_no_function_of_images_alone(detectors: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """mmdet's network takes the images' sizes, too, and suppresses boxes; mmdeploy exports it from mmengine's files."""
    monkeypatch.chdir(detectors)
    run_layers(detectors, "sample", experiment="boxes")
    weights = detectors / "results/boxes/samples/0000.safetensors"
    with pytest.raises(SystemExit):
        export("--format", "onnx", "--experiment", "boxes", "--weights", weights, "--out", tmp_path / "x.onnx")
    assert "--format onnx: the network does not run on images alone" in capsys.readouterr().err
    export("--format", "mmengine", "--experiment", "boxes", "--weights", weights, "--out", tmp_path / "made")
    tree = torch.load(tmp_path / "made/network.pth", weights_only=True)
    assert tree["meta"]["dataset_meta"]["classes"] == tuple("0123456789")
    assert tree["state_dict"].keys() == load_file(weights).keys()
    assert "/tmp" not in (tmp_path / "made/network.py").read_text()
