"""Bad input is one line on standard error and exit code 2, whatever the verb."""

import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, write_params
from safetensors.torch import load_file

from rpg import __version__
from rpg.cli import app, ledger, main
from rpg.config.loading import json_schema
from rpg.stages import STAGES, SUMMARIES

OTHER_VERBS = (
    "init", "import", "generate", "pack", "export", "demo", "config", "show", "plan", "schema", "clean", "ledger",
)  # fmt: skip
# The options of verbs that have others than their kind; those of `ledger` are verbs.
OPTIONS = {
    "zoo": ("--experiment", "--shard", "--threads"),
    "train": ("--experiment", "--threads", "--processes"),
    "score": ("--experiment", "--generator", "--threads", "--weights", "--classes", "--code"),
    "init": (
        "--checkpoints", "--build", "--score", "--metric", "--unit", "--lower-is-better", "--state-from", "--held-out",
        "--facts", "--weights", "--only",
    ),
    "import": ("--experiment", "--weights"),
    "generate": (
        "--experiment", "--generator", "--out", "--classes", "--code", "--describe", "--images", "--prompts",
        "--vector", "--architecture", "--count", "--state", "--seed", "--steps", "--threads", "--runtime",
    ),
    "joint": ("--experiment", "--threads"),
    "pack": ("--experiment", "--out", "--graph", "--no-graph"),
    "export": ("--experiment", "--generator", "--out", "--format", "--weights", "--like"),
    "demo": ("--experiment", "--generator", "--port", "--browser", "--no-browser"),
    "plan": ("--experiment", "--all", "--device", "--processes"),
    "config": (), "ablations": (), "peers": (), "tables": (), "show": (), "report": (), "schema": (),
    "clean": ("--unlisted", "--states", "--delete"),
    "ledger": ("write", "status", "pull", "adopt", "push"),
}  # fmt: skip


class Code:
    """What a hostile pickle does when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RPG_DATA", raising=False)
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that `rpg *arguments` prints when it refuses."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removeprefix("rpg: error: ").rstrip("\n")


def edit_params(folder: Path, *keys: str, value: object) -> None:
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize("verb", ["zoo", "collect", "tokens", "train", "sample", "score", "novelty"])
def test_unknown_experiment(folder: Path, capsys, verb: str) -> None:
    assert refusal(capsys, verb, "--experiment", "mimi") == "params.yaml: no experiment 'mimi'; did you mean 'mini'?"


def test_misspelt_key(folder: Path, capsys) -> None:
    edit_params(folder, "experiments", "mini", "zoo", "stesp", value=3)
    assert refusal(capsys, "zoo", "--experiment", "mini") == "params.yaml: experiments.mini.zoo.stesp: unknown key"


def test_key_named_size(folder: Path, capsys) -> None:
    edit_params(folder, "experiments", "mini", "tokens", "size", value=3)
    assert "the key 'size' is not allowed" in refusal(capsys, "tables")


def test_wrong_type(folder: Path, capsys) -> None:
    edit_params(folder, "experiments", "mini", "train", "learning_rate", value="fast")
    line = refusal(capsys, "train", "--experiment", "mini")
    assert line == 'params.yaml: experiments.mini.train.learning_rate: input should be a valid number, not "fast"'


def test_no_params_file(folder: Path, capsys) -> None:
    (folder / "params.yaml").unlink()
    assert "run rpg in the folder that holds params.yaml" in refusal(capsys, "tables")


def test_missing_data_folder(folder: Path, capsys, monkeypatch) -> None:
    edit_params(folder, "experiments", "mini", "task", "data", value="cifar10")
    assert "set RPG_DATA" in refusal(capsys, "zoo", "--experiment", "mini")
    monkeypatch.setenv("RPG_DATA", str(folder / "nowhere"))
    assert f"{folder}/nowhere/cifar10: no such data folder" in refusal(capsys, "zoo", "--experiment", "mini")
    (folder / "nowhere/cifar10").mkdir(parents=True)
    assert "no train-*.parquet" in refusal(capsys, "zoo", "--experiment", "mini")
    assert not list((folder / "results").rglob("*.safetensors"))


@pytest.mark.parametrize("keep", [0, 4, 200, -8])
def test_truncated_safetensors(folder: Path, finished: Path, capsys, keep: int) -> None:
    sample = next((finished / "results/mini/samples").glob("*.safetensors"))
    (folder / "w.safetensors").write_bytes(sample.read_bytes()[:keep])
    line = refusal(capsys, "score", "--experiment", "mini", "--weights", "w.safetensors")
    assert line.startswith("w.safetensors: not a complete safetensors file")


def test_truncated_checkpoint_in_the_zoo(folder: Path, finished: Path, capsys) -> None:
    shutil.copytree(finished / "results", folder / "results")
    path = next((folder / "results/mini/zoo/0000-0001").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    for verb in ("collect", "tokens", "score"):
        line = refusal(capsys, verb, "--experiment", "mini")
        assert line.startswith(f"{path.relative_to(folder)}: missing or changed since it was trained")


@pytest.mark.parametrize("keep", [0, 100, -8])
def test_truncated_model(folder: Path, finished: Path, capsys, keep: int) -> None:
    shutil.copytree(finished / "results", folder / "results")
    path = folder / "results/mini/rpg/model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    line = refusal(capsys, "sample", "--experiment", "mini")
    assert line.startswith("results/mini/rpg/model.safetensors: missing or changed since it was trained")


# The pickle is of another protocol than torch's own.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_with_code_is_refused_and_not_run(folder: Path, capsys, legacy: bool) -> None:
    marker, path = folder / "executed", folder / "w.pth"
    if legacy:
        path.write_bytes(pickle.dumps({"weight": Code(marker)}))
    else:
        torch.save({"weight": Code(marker)}, path)
        assert zipfile.is_zipfile(path)
    line = refusal(capsys, "score", "--experiment", "mini", "--weights", "w.pth")
    assert line.startswith("w.pth: refused")
    assert not marker.exists()


def test_weights_of_another_network(folder: Path, capsys) -> None:
    torch.save({"weight": torch.zeros(3)}, folder / "w.pth")
    assert "do not fit network 'resnet18'" in refusal(capsys, "score", "--experiment", "mini", "--weights", "w.pth")


def test_network_that_timm_refuses(folder: Path, capsys) -> None:
    edit_params(folder, "experiments", "mini", "task", "network", "name", value="resnet17")
    assert "network 'resnet17': timm refuses it" in refusal(capsys, "zoo", "--experiment", "mini")


@pytest.mark.parametrize("verb", ["collect", "tokens", "train", "sample", "score", "novelty"])
def test_stage_without_the_one_before_names_the_command(folder: Path, capsys, verb: str) -> None:
    line = refusal(capsys, verb, "--experiment", "mini")
    before = {
        "collect": "zoo", "tokens": "collect", "train": "tokens", "sample": "tokens", "score": "collect",
        "novelty": "tokens",
    }[verb]  # fmt: skip
    assert f"make it with `rpg {before}" in line


@pytest.mark.parametrize("state", ["3", "-1"])
def test_state_that_the_zoo_does_not_have(folder: Path, finished: Path, capsys, state: str) -> None:
    shutil.copytree(finished / "results", folder / "results")
    line = refusal(capsys, "generate", "--experiment", "mini", "--out", "w.safetensors", f"--state={state}")
    assert line == f"state {state}: the zoo has states 0 to 2, one per seed"
    assert not (folder / "w.safetensors").exists()


def test_options_of_one_network_need_a_file(folder: Path, capsys) -> None:
    line = refusal(capsys, "generate", "--experiment", "mini", "--state", "1")
    assert line == "Missing option '--out'; see `rpg generate --help`"
    line = refusal(capsys, "score", "--experiment", "mini", "--code", "0100111010")
    assert line == "--generator, --classes and --code are for one file: add --weights FILE"


@pytest.mark.parametrize("stage", ["base", "tune", "hypernetwork"])
def test_stage_that_the_experiment_lacks(folder: Path, capsys, stage: str) -> None:
    line = refusal(capsys, stage, "--experiment", "mini")
    assert line == f"params.yaml: experiments.mini: no {stage} block, so there is no such stage; add the block"


def test_demo_of_an_experiment_without_tasks(folder: Path, finished: Path, capsys) -> None:
    assert "make it with `rpg tokens" in refusal(capsys, "demo", "--experiment", "mini")
    shutil.copytree(finished / "results", folder / "results")
    assert "name an experiment with task_codes" in refusal(capsys, "demo", "--experiment", "mini")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing command; see `rpg --help`"),
        (["--state", "a"], "No such option: --state; see `rpg --help`"),
        (["nothing"], "No such command 'nothing'; see `rpg --help`"),
        (["generate", "--state", "x"], "Missing option '--out'; see `rpg generate --help`"),
        (["ledger"], "Missing command; see `rpg ledger --help`"),
        (["ledger", "pul"], "No such command 'pul'. Did you mean 'pull'? See `rpg ledger --help`"),
        (
            ["train", "--experiment", "mini", "--threads", "0"],
            "Invalid value for '--threads': Input should be greater than or equal to 1; see `rpg train --help`",
        ),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, capsys, arguments: list[str], line: str) -> None:
    assert refusal(capsys, *arguments) == line


@pytest.mark.parametrize("out", ["results", "w.pth", "params.yaml/w.safetensors", "folder.safetensors"])
def test_out_must_be_a_safetensors_file(folder: Path, finished: Path, capsys, out: str) -> None:
    shutil.copytree(finished / "results", folder / "results")
    (folder / "folder.safetensors").mkdir()
    assert out.split("/")[0] in refusal(capsys, "generate", "--experiment", "mini", "--out", out)


def test_file_in_the_way_of_results(folder: Path, capsys) -> None:
    (folder / "results").touch()
    assert "results" in refusal(capsys, "zoo", "--experiment", "mini")


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", "\0"])
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("collect", "zoo/0000-0001/manifest.json"),
        ("tokens", "zoo/checkpoints.json"),
        ("train", "tokens/layout.json"),
        ("sample", "rpg/config.json"),
        ("score", "samples/manifest.json"),
        ("score", "zoo/checkpoints.json"),
        ("tables", "scores.json"),
        ("tables", "test.json"),
        ("novelty", "samples/manifest.json"),
        ("tables", "novelty.json"),
    ],
)
def test_own_json_of_the_wrong_structure_is_named(folder: Path, finished: Path, capsys, verb, name, text) -> None:
    shutil.copytree(finished / "results", folder / "results")
    (folder / "results/mini" / name).write_text(text)
    line = refusal(capsys, verb, *([] if verb == "tables" else ["--experiment", "mini"]))
    assert line.startswith(f"results/mini/{name}")


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 5},
        {"num_classes": 0},
        {"in_chans": 3},
        {"features_only": True},
        {"channels": [4]},
        {"act_layer": "no"},
        {"checkpoint_path": "/nowhere"},
        {"pretrained": True},
    ],
)
def test_network_that_does_not_fit_its_data(folder: Path, capsys, arguments: dict) -> None:
    base = yaml.safe_load((folder / "params.yaml").read_text())["experiments"]["mini"]["task"]["network"]["arguments"]
    edit_params(folder, "experiments", "mini", "task", "network", "arguments", value={**base, **arguments})
    assert refusal(capsys, "zoo", "--experiment", "mini").startswith("params.yaml: ")


def test_network_from_a_hub(folder: Path, capsys) -> None:
    edit_params(folder, "experiments", "mini", "task", "network", "name", value="hf-hub:x/y")
    assert "network.name" in refusal(capsys, "zoo", "--experiment", "mini")


def test_weights_with_nan(folder: Path, finished: Path, capsys) -> None:
    state_dict = torch.load(save_copy(finished, folder), weights_only=True)
    state_dict["fc.bias"][0] = float("nan")
    torch.save(state_dict, folder / "w.pth")
    line = refusal(capsys, "score", "--experiment", "mini", "--weights", "w.pth")
    assert line == "w.pth: tensor 'fc.bias' holds NaN or Inf"


def save_copy(finished: Path, folder: Path) -> Path:
    """The first sample of the miniature as a .pth."""
    torch.save(load_file(finished / "results/mini/samples/0000.safetensors"), folder / "w.pth")
    return folder / "w.pth"


def test_unknown_shard(folder: Path, capsys) -> None:
    line = refusal(capsys, "zoo", "--experiment", "mini", "--shard", "../x")
    assert line == "--shard ../x: not in this zoo; known: 0000-0001, 0002-0003"


def test_model_trained_on_another_zoo(folder: Path, finished: Path, capsys) -> None:
    shutil.copytree(finished / "results", folder / "results")
    # The same shapes, other checkpoints: what only the recorded hash can tell.
    edit_params(folder, "experiments", "mini", "zoo", "seeds", value=[0, 1, 3])
    main(["zoo", "--experiment", "mini"])
    main(["collect", "--experiment", "mini"])
    main(["tokens", "--experiment", "mini"])
    capsys.readouterr()
    assert "trained on tokens of another zoo" in refusal(capsys, "sample", "--experiment", "mini")


def test_python_m_rpg_is_the_console_script() -> None:
    def text(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout

    help_text = text(sys.executable, "-m", "rpg", "--help")
    assert help_text == text(str(Path(sys.executable).parent / "rpg"), "--help")
    for verb in (*STAGES, *SUMMARIES, *OTHER_VERBS):
        assert f"\n│ {verb} " in help_text


def test_every_stage_and_summary_is_a_verb() -> None:
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert verbs | {"ledger"} == {*STAGES, *SUMMARIES, *OTHER_VERBS}
    assert {command.callback.__name__ for command in ledger.registered_commands} == set(OPTIONS["ledger"])


@pytest.mark.parametrize("verb", [verb for verb in (*STAGES, *SUMMARIES, *OTHER_VERBS) if verb != "ledger"])
def test_help_of_a_verb_names_its_options(capsys, verb: str) -> None:
    main([verb, "--help"])
    text = capsys.readouterr().out
    assert f" Usage: rpg {verb} " in text
    options = OPTIONS.get(verb, ("--experiment", "--threads") if verb in STAGES else ("--experiment",))
    rows = re.findall(r"^│ (?:[ *]  )?(--.*)│$", text, re.M)
    assert [option for row in rows for option in re.findall(r"(?<!\S)--[\w-]+", row)] == [*options, "--help"]
    # Each option says what it does.
    assert all(" " in re.split(r"  +", row.strip())[-1] for row in rows), text


@pytest.mark.parametrize("verb", OPTIONS["ledger"])
def test_help_of_a_verb_of_the_ledger(capsys, verb: str) -> None:
    main(["ledger", verb, "--help"])
    assert f" Usage: rpg ledger {verb} " in capsys.readouterr().out


def test_version(capsys) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"rpg {__version__}\n"


def test_a_success_returns(folder: Path, capsys) -> None:
    """`main` raises SystemExit for a fault alone: tests and notebooks call it, too."""
    assert main(["schema"]) is None
    assert capsys.readouterr().out == json_schema()


def test_reader_of_a_pipe_may_leave() -> None:
    command = f"{sys.executable} -m rpg schema | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, rpg.cli; rpg.cli.main(['--help']);"
        " print([m for m in ('torch', 'pandas', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert " Usage: rpg " in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_numpy_has_no_more_threads_than_asked_for() -> None:
    code = """
import sys, types
from rpg import cli
stub = types.SimpleNamespace(measure_novelty=lambda *_: __import__("scipy.linalg"))
sys.modules["rpg.evaluation.novelty"] = stub
cli.main(["novelty", "--experiment", "digits-vit", "--threads", "1"])
from threadpoolctl import threadpool_info
print(*{library["num_threads"] for library in threadpool_info()})
"""
    unset = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=unset)
    assert told.stdout == "1\n"
