"""The generator that a command opens."""

from pathlib import Path

import pytest
from conftest import write_params

from rpg.cli import main
from rpg.generator.onnx_runtime import GraphGenerator
from rpg.generator.opening import open_generator, open_task
from rpg.generator.trained import TrainedRPG
from rpg.utils.errors import UserError

OUT = Path("w.safetensors")


def test_one_of_experiment_and_folder() -> None:
    for options in ((None, None), ("mini", Path("packed"))):
        with pytest.raises(UserError, match="give one of --experiment NAME and --generator FOLDER"):
            open_generator(*options, OUT, "auto", None, 1)
        with pytest.raises(UserError, match="give one of"):
            open_task(*options, 1)


def test_a_wrong_suffix_is_found_before_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--out w.pth: must end in .safetensors"):
        open_generator("mini", None, Path("w.pth"), "auto", None, 1)
    with pytest.raises(UserError, match="make it with `rpg tokens"):
        open_generator("mini", None, OUT, "auto", None, 1)


def test_runtimes(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    folder = tmp_path / "packed"
    main(["pack", "--experiment", "mini", "--out", str(folder)])
    assert isinstance(open_generator("mini", None, OUT, "auto", None, 1), TrainedRPG)
    assert isinstance(open_generator(None, folder, OUT, "auto", None, 1), GraphGenerator)
    assert isinstance(open_generator(None, folder, OUT, "auto", 2, 1), TrainedRPG)
    assert isinstance(open_generator(None, folder, OUT, "torch", None, 1), TrainedRPG)
    with pytest.raises(UserError, match="--runtime onnx: the graph has 3 steps; use --runtime torch"):
        open_generator(None, folder, OUT, "onnx", 2, 1)
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"has no model.onnx; use --runtime torch"):
        open_generator(None, folder, OUT, "onnx", None, 1)


def test_the_task_of_a_packed_generator(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    main(["pack", "--experiment", "mini", "--out", str(tmp_path / "packed"), "--no-graph"])
    own, _, tokens = open_task("mini", None, 1)
    assert tokens == Path("results/mini/tokens")
    packed, *folders = open_task(None, tmp_path / "packed", 1)
    assert packed == own
    assert folders == [None, None]
