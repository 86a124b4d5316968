"""The score of one network in a file."""

import json
from pathlib import Path

import pytest

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
