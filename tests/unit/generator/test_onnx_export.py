"""The export of a trained RPG as a graph."""

from pathlib import Path

from conftest import ROOT

from rpg import Generator
from rpg.cli import main
from rpg.generator import onnx_export
from rpg.generator.trained import TrainedRPG


def test_the_graph_names_no_path_of_this_machine(packed_graph: Path) -> None:
    content = (packed_graph / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert b".py" not in content


def test_saving_again_keeps_the_graph(packed_graph: Path, tmp_path: Path) -> None:
    Generator.from_pretrained(packed_graph).save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(
        path.name for path in packed_graph.iterdir()
    )
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in packed_graph.iterdir())


def test_long_samplers_have_no_graph(finished: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    trained = TrainedRPG.of_experiment("mini", finished)
    assert onnx_export.unsuited(trained) is None
    monkeypatch.setattr(onnx_export, "MAX_STEPS", 1)
    assert "more than 1 steps" in (onnx_export.unsuited(trained) or "")
    monkeypatch.chdir(finished)
    main(["pack", "--experiment", "mini", "--out", str(tmp_path / "packed")])
    assert (
        "without model.onnx: the sampler draws noise in each step, or has more than 1 steps" in capsys.readouterr().out
    )
    assert not (tmp_path / "packed/model.onnx").exists()
