"""A packed generator without torch: an exported graph, and NumPy with torch's random numbers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from rpg.cli import main
from rpg.generator.onnx_runtime import GraphGenerator, TorchRandom
from rpg.generator.packed import read_packed
from rpg.utils.errors import UserError


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**63 - 1])
@pytest.mark.parametrize("count", [16, 17, 33, 512 * 9, 1000])
def test_normal_numbers_are_torchs(seed: int, count: int) -> None:
    """torch 2.11.0 draws blocks of 16, and the last one anew if it is not whole."""
    theirs, ours = torch.Generator().manual_seed(seed), TorchRandom(seed)
    for _ in range(3):
        np.testing.assert_allclose(ours.normal(count), torch.randn(count, generator=theirs).numpy(), atol=2e-6)
        assert ours.integer(1000) == int(torch.randint(1000, (), generator=theirs))


@pytest.mark.parametrize(
    "request_",
    [{"code": None, "states": None}, {"code": "0100111010", "states": (1,)}, {"code": None, "states": (0, 1)}],
)
def test_networks_are_torchs(packed_graph: Path, request_: dict) -> None:
    own = read_packed(packed_graph).networks(3, seed=5, **request_)
    for network, of_graph in zip(own, GraphGenerator(packed_graph).networks(3, seed=5, **request_), strict=True):
        assert (of_graph.states, of_graph.code) == (network.states, network.code)
        assert list(of_graph.state_dict) == list(network.state_dict)
        for name, tensor in network.state_dict.items():
            found = torch.tensor(of_graph.state_dict[name])
            assert found.dtype == tensor.dtype
            assert (found - tensor).abs().max() <= 1e-5 * tensor.abs().max(), name


def test_the_command_imports_no_torch(packed_graph: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from rpg.cli import main
main(["generate", "--generator", {str(packed_graph)!r}, "--classes", "3,8", "--out", "w.safetensors"])
assert "torch" not in sys.modules
assert "pandas" not in sys.modules
"""
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("w.safetensors: code 0001000010 (not in the zoo), state ")
    assert (
        load_file(tmp_path / "w.safetensors").keys()
        == read_packed(packed_graph).networks(1, None, None)[0].state_dict.keys()
    )


def test_files_are_torchs(packed_graph: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The same names, shapes, types and task as torch writes; the network loads and scores."""
    monkeypatch.chdir(tmp_path)
    for runtime in ("onnx", "torch"):
        main(
            [
                "generate",
                "--generator",
                str(packed_graph),
                "--seed",
                "3",
                "--out",
                f"{runtime}.safetensors",
                "--runtime",
                runtime,
            ]
        )
    one, other = (load_file(f"{runtime}.safetensors") for runtime in ("onnx", "torch"))
    assert {name: (of.shape, of.dtype) for name, of in one.items()} == {
        name: (of.shape, of.dtype) for name, of in other.items()
    }
    capsys.readouterr()
    for runtime in ("onnx", "torch"):
        main(["score", "--generator", str(packed_graph), "--weights", f"{runtime}.safetensors"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.removeprefix("onnx") == second.removeprefix("torch")


def test_torch_runs_where_the_graph_cannot(packed_graph: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    request = ["--generator", str(packed_graph), "--seed", "1", "--out"]
    main(["generate", *request, "steps.safetensors", "--steps", "2"])
    main(["generate", *request, "torch.safetensors", "--steps", "2", "--runtime", "torch"])
    assert Path("steps.safetensors").read_bytes() == Path("torch.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main(["generate", *request, "x.safetensors", "--steps", "2", "--runtime", "onnx"])
    assert "--runtime onnx: the graph has 3 steps; use --runtime torch" in capsys.readouterr().err


def test_a_changed_graph_is_refused(packed_graph: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in packed_graph.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model.onnx: missing or changed since it was packed"):
        GraphGenerator(copy)
