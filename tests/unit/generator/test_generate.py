"""Asking for networks, from Python and from the command line, on the miniatures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import MINIATURE, TASKS
from safetensors import safe_open
from safetensors.torch import load_file

import rpg
from rpg.cli import main
from rpg.utils.errors import UserError

HELD_OUT = "0100111010"


@pytest.fixture
def inside(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tasks)
    return tasks


def load(state_dict: dict[str, torch.Tensor], experiment: dict = TASKS) -> torch.nn.Module:
    network = timm.create_model(**{"model_name": "resnet18", **experiment["task"]["network"]["arguments"]})
    network.load_state_dict(state_dict)
    return network.eval()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_held_out_code_loads_as_it_is(inside: Path) -> None:
    network = load(rpg.generate("tasks", code=HELD_OUT, state=0, seed=1))
    answers = network(torch.zeros(2, 1, 8, 8))
    assert answers.shape == (2, 2)
    assert torch.isfinite(answers).all()


def test_classes_code_and_words_say_the_same(inside: Path) -> None:
    by_code = rpg.generate("tasks", code="1010101010", state=1)
    for other in ({"classes": [0, 2, 4, 6, 8]}, {"classes": ["8", "6", 4, 2, "0"]}, {"describe": "even numbers"}):
        assert equal(rpg.generate("tasks", state=1, **other), by_code)
    assert not equal(rpg.generate("tasks", code="1010101011", state=1), by_code)
    assert not equal(rpg.generate("tasks", code="1010101010", state=0), by_code)
    assert not equal(rpg.generate("tasks", code="1010101010", state=1, seed=9), by_code)
    assert not equal(rpg.generate("tasks", code="1010101010", state=1, steps=1), by_code)


def test_from_another_folder(tasks: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(rpg.generate("tasks", code=HELD_OUT, root=tasks))
    with pytest.raises(UserError, match="run rpg in the folder that holds params"):
        rpg.generate("tasks", code=HELD_OUT)


def test_it_is_what_the_layer_samples(inside: Path) -> None:
    """The tuned model, its noise from seed and index; up to the last bits, since the layer computes several at once."""
    samples = json.loads(Path("results/tasks/samples/manifest.json").read_text())["samples"]
    first = samples[0]
    assert [first["file"], first["model"], first["code"], first["state"]] == ["0000.safetensors", "rpg", HELD_OUT, 0]
    found = rpg.generate("tasks", code=HELD_OUT, state=0)
    for name, tensor in load_file(Path("results/tasks/samples") / first["file"]).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_command_line(inside: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "w.safetensors"
    main(["generate", "--experiment", "tasks", "--classes", "1,4,5,6,8", "--state", "1", "--out", str(out)])
    assert capsys.readouterr().out == f"{out}: code {HELD_OUT} (held out), state 1\n"
    assert equal(load_file(out), rpg.generate("tasks", code=HELD_OUT, state=1))
    with safe_open(out, "pt") as file:
        assert file.metadata() == {"task_code": HELD_OUT}
    # The file knows its task.
    main(["score", "--experiment", "tasks", "--weights", str(out)])
    by_file = capsys.readouterr().out
    main(["score", "--experiment", "tasks", "--weights", str(out), "--code", HELD_OUT])
    assert capsys.readouterr().out == by_file


def test_several_networks_differ_and_say_what_they_are(inside: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "w.safetensors"
    main(["generate", "--experiment", "tasks", "--describe", "even numbers", "--count", "3", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "'even numbers' is 1010101010 for the lexicon: 0, 2, 4, 6, 8 (correct it with --code)"
    assert [line.split(":")[0] for line in lines[1:]] == [str(tmp_path / f"w-{k}.safetensors") for k in range(3)]
    networks = [load_file(tmp_path / f"w-{k}.safetensors") for k in range(3)]
    assert not equal(networks[0], networks[1])
    assert all(load(network) for network in networks)
    assert not out.exists()


def test_state_alone_where_there_are_no_tasks(finished: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(finished)

    def generate(name: str, *options: str) -> bytes:
        main(["generate", "--experiment", "mini", "--out", str(tmp_path / name), *options])
        return (tmp_path / name).read_bytes()

    first = generate("a.safetensors", "--state", "1", "--seed", "7")
    assert capsys.readouterr().out == f"{tmp_path}/a.safetensors: state 1\n"
    assert generate("b.safetensors", "--state", "1", "--seed", "7") == first
    assert generate("c.safetensors", "--state", "1", "--seed", "8") != first
    assert generate("d.safetensors", "--state", "2", "--seed", "7") != first
    capsys.readouterr()
    between = generate("e.safetensors", "--state", "1,2", "--seed", "7")
    assert capsys.readouterr().out == f"{tmp_path}/e.safetensors: state 1 and state 2\n"
    assert between not in (first, generate("d.safetensors", "--state", "2", "--seed", "7"))
    assert equal(load_file(tmp_path / "e.safetensors"), rpg.generate("mini", state=[2, 1], seed=7))
    assert load(load_file(tmp_path / "a.safetensors"), MINIATURE)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--code", "0000000000"], "--code 0000000000: all bits are 0"),
        (["--code", "1111111111"], "--code 1111111111: all bits are 1"),
        (["--code", "0101"], "--code 0101: must be 10 digits 0 or 1"),
        (["--code", "01010101012"], "must be 10 digits 0 or 1"),
        (["--code", "010101010x"], "must be 10 digits 0 or 1"),
        (["--classes", "3,10"], "--classes: no class '10'; known: 0, 1, 2"),
        (["--classes", "cat"], "--classes: no class 'cat'"),
        (["--classes", ""], "--classes: no class ''"),
        (["--classes", "0,1,2,3,4,5,6,7,8,9"], "classes on both sides"),
        (["--classes", "3", "--code", HELD_OUT], "--classes and --code may contradict each other"),
        (["--code", HELD_OUT, "--describe", "even"], "--code and --describe may contradict each other"),
        (["--describe", "zebras"], "'zebras' is not known for digits; it knows:"),
        (["--describe", "even odd"], "matches no class"),
        (["--describe", ""], "the sentence is empty"),
        (["--state", "2"], "state 2: the zoo has states 0 to 1, one per seed"),
        (["--state", "-1"], "state -1: the zoo has states 0 to 1"),
        (["--state", "1,1"], "states 1, 1: one is given twice; give each state once"),
        (
            ["--count", "0"],
            "Invalid value for '--count': Input should be greater than or equal to 1; see `rpg generate --help`",
        ),
        (
            ["--steps", "1001"],
            "Invalid value for '--steps': Input should be less than or equal to 1000; see `rpg generate --help`",
        ),
        (
            ["--seed", "-1"],
            "Invalid value for '--seed': Input should be greater than or equal to 0; see `rpg generate --help`",
        ),
        (["--vector", "validation_top1=99"], "--vector validation_top1: the model has no such vector; known: none"),
        (
            ["--vector", "validation_top1=high"],
            "--vector validation_top1=high: must be NAME=NUMBERS, as validation_top1=98.5",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(inside: Path, tmp_path: Path, capsys, options, fault) -> None:
    out = tmp_path / "w.safetensors"
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--experiment", "tasks", "--out", str(out), *options])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert fault in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_python_s_own_bad_input_is_a_user_error(inside: Path) -> None:
    with pytest.raises(UserError, match="must be 10 digits 0 or 1"):
        rpg.generate("tasks", code=1000010)
    with pytest.raises(UserError, match="--steps 0: must be between 1 and 1000"):
        rpg.generate("tasks", code=HELD_OUT, steps=0)


def test_tasks_of_an_experiment_that_has_none(finished: Path, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    with pytest.raises(UserError, match="have no tasks to choose from"):
        rpg.generate("mini", classes=[3])


def test_not_trained_yet_names_the_command(tasks: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copy(tasks / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make it with `rpg tokens"):
        rpg.generate("tasks", code=HELD_OUT)
    shutil.copytree(tasks / "results/tasks/tokens", tmp_path / "results/tasks/tokens")
    with pytest.raises(UserError, match=r"tune/config\.json: missing; make it with `rpg tune`"):
        rpg.generate("tasks", code=HELD_OUT)


def test_import_of_rpg_needs_no_torch() -> None:
    code = "import sys, rpg; assert 'torch' not in sys.modules; rpg.generate; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
