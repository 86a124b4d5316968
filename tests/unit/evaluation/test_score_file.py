"""The score of one network in a file."""

import json
from pathlib import Path

import pytest
import torch
from conftest import GIVEN, run_layers, write_given, write_tree

from rpg.cli import main


def test_score_of_one_file(finished: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    scores = json.loads(Path("results/mini/scores.json").read_text())
    main(["score", "--experiment", "mini", "--weights", "results/mini/samples/0002.safetensors"])
    assert capsys.readouterr().out == f"results/mini/samples/0002.safetensors: top1 {scores['rpg'][2]['test']:.2f}\n"


def test_file_without_a_task_needs_one(tasks: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tasks)
    arguments = ["score", "--experiment", "tasks", "--weights", "results/tasks/samples/0000.safetensors"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "names no task; add --classes or --code" in capsys.readouterr().err
    scores = json.loads(Path("results/tasks/scores.json").read_text())
    main([*arguments, "--classes", "1,4,5,6,8"])
    assert capsys.readouterr().out.endswith(f"top1 {scores['rpg'][0]['test']:.2f}\n")


def test_distance_of_one_file_that_no_function_scores(tmp_path: Path, capsys, monkeypatch) -> None:
    """A checkpoint is no distance away; one with other weights is as far as its root mean square says."""
    write_given(tmp_path)
    write_tree(tmp_path, given={**GIVEN, "task": {"kind": "custom"}, "tokens": {"width": 32, "only": ["0.weight"]}})
    run_layers(tmp_path, "zoo", "collect", "tokens", experiment="given")
    monkeypatch.chdir(tmp_path)
    state_dict = torch.load("zoo/a/epoch-9.pth")
    spreads = [torch.load(path)["0.weight"].std() for path in Path("zoo").rglob("*.pth")]
    # A step so small that no other checkpoint is nearer.
    state_dict["0.weight"] += 0.001 * torch.stack(spreads).mean()
    torch.save(state_dict, "moved.pth")
    capsys.readouterr()
    for file, distance in (("zoo/a/epoch-9.pth", "0.000"), ("moved.pth", "0.001000")):
        main(["score", "--experiment", "given", "--weights", file])
        assert capsys.readouterr().out == f"{file}: distance {distance} standard deviations\n"
