"""A generator that was packed makes the same bytes as in the checkout, without zoo and params.yaml."""

import json
from pathlib import Path

import pytest
import torch
from conftest import GIVEN, equal, pack_in, run_layers, write_given, write_tree
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from rpg import Generator, generate
from rpg.cli import main
from rpg.generator import packed
from rpg.utils.errors import UserError
from rpg.utils.files import sha256, write_sealed

HELD_OUT = "0100111010"


def pack(folder: Path, name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pack an experiment, and leave its checkout."""
    (out.parent / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(out.parent / "elsewhere")
    return pack_in(folder, name, out, "--no-graph")


def test_networks_are_those_of_the_checkout(tasks: Path, taken: Path) -> None:
    generator = Generator.from_pretrained(taken)
    requests = [
        {"seed": 3},
        {"code": HELD_OUT, "seed": 1},
        {"classes": [3, 8], "state": 1},
        {"state": [0, 1], "steps": 2},
    ]
    for request in requests:
        assert equal(generator.generate(**request), generate("tasks", root=tasks, **request))
    assert not equal(generator.generate(seed=1), generator.generate(seed=2))


def test_the_command_line_writes_the_same_file(tasks: Path, taken: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    request = ["--classes", "3,8", "--seed", "5", "--out"]
    main(["generate", "--generator", str(taken), *request, "packed.safetensors"])
    main(["score", "--generator", str(taken), "--weights", "packed.safetensors"])
    printed = capsys.readouterr().out
    packed_bytes = Path("packed.safetensors").read_bytes()
    monkeypatch.chdir(tasks)
    main(["generate", "--experiment", "tasks", *request, str(tmp_path / "own.safetensors")])
    main(["score", "--experiment", "tasks", "--weights", str(tmp_path / "own.safetensors")])
    assert packed_bytes == (tmp_path / "own.safetensors").read_bytes()
    assert printed == capsys.readouterr().out.replace(str(tmp_path / "own"), "packed")
    assert "packed.safetensors: code 0001000010 (not in the zoo), state " in printed


def test_the_folder_holds_what_generation_needs(taken: Path) -> None:
    assert sorted(path.name for path in taken.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "zoo.safetensors",
    ]  # fmt: skip
    zoo = load_file(taken / "zoo.safetensors")
    assert {name.partition(".")[0] for name in zoo} == {"stats", "skipped", "conditions"}
    # No tokens: the numbers of each checkpoint are its conditions.
    assert zoo["conditions.task_code"].shape[1] == 10
    text = (taken / "config.json").read_text()
    assert "/tmp" not in text
    assert str(Path.cwd()) not in text
    generator = Generator.from_pretrained(taken)
    assert generator.conditions == {"permutation_state": 2, "task_code": tuple("0123456789")}


def test_packing_again_gives_the_same_bytes(tasks: Path, taken: Path, tmp_path: Path, monkeypatch) -> None:
    again = pack(tasks, "tasks", tmp_path / "again", monkeypatch)
    packed.write_packed(packed.read_packed(taken), tmp_path / "saved", (taken / "README.md").read_text(), graph=False)
    for other in (again, tmp_path / "saved"):
        assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in taken.iterdir())
        assert all((other / path.name).read_bytes() == path.read_bytes() for path in taken.iterdir())


def test_detection(found: Path, tmp_path: Path, monkeypatch) -> None:
    """An mmengine config comes along as literals, and is not run."""
    folder = pack(found, "scenes", tmp_path / "packed", monkeypatch)
    generator = Generator.from_pretrained(folder)
    assert equal(generator.generate(seed=2), generate("scenes", root=found, seed=2))
    network = generator.network(seed=2)
    assert equal(dict(network.state_dict()), generator.generate(seed=2))
    lines = (folder / "network.py").read_text().splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("model = "))
    for line, why in (
        ("import os", "line 1 is no assignment"),
        ("x = dict(type='ResNet')", "malformed node"),
        ("x = {'type': 'os.getcwd'}", "type 'os.getcwd': no class of OpenMMLab"),
        ("x = {'type': 'rpg.cli.main'}", "type 'rpg.cli.main': no class of OpenMMLab"),
        # mmcv evaluates the type of a suppression.
        ("x = {'type': '__import__(\"os\").nms'}", "no class of OpenMMLab"),
        ("custom_imports = {'imports': ['this']}", "custom_imports: the network needs modules"),
    ):
        (folder / "network.py").write_text("\n".join([line, *lines]))
        tree = json.loads((folder / "config.json").read_text())
        for file in tree["files"]:
            if file["file"] == "network.py":
                file["sha256"] = sha256(folder / "network.py")
        write_sealed(folder / "config.json", tree)
        with pytest.raises(UserError, match=why):
            Generator.from_pretrained(folder).network(seed=2)
    assert at >= 0


def test_a_detector(detectors: Path, tmp_path: Path, monkeypatch) -> None:
    """Its config names RoIAlign and nms, which no registry holds."""
    folder = pack(detectors, "boxes", tmp_path / "packed", monkeypatch)
    generator = Generator.from_pretrained(folder)
    assert equal(dict(generator.network(seed=2).state_dict()), generator.generate(seed=2))


def test_adapters(adapters: Path, tmp_path: Path, monkeypatch) -> None:
    """Their language model comes along, and the folder of a generated one opens in peft."""
    folder = pack(adapters, "adapters", tmp_path / "packed", monkeypatch)
    generator = Generator.from_pretrained(folder)
    state_dict = generator.generate(seed=2)
    assert equal(state_dict, generate("adapters", root=adapters, seed=2))
    main(["generate", "--generator", str(folder), "--seed", "2", "--out", "adapter"])
    model = AutoModelForCausalLM.from_pretrained(folder / "language_model")
    opened = PeftModel.from_pretrained(model, "adapter").eval()
    words = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected, found = opened(words).logits, generator.network(seed=2)(words).logits
    torch.testing.assert_close(found, expected)
    assert equal(load_file("adapter/adapter_model.safetensors"), dict(sorted(state_dict.items())))


def test_a_zoo_of_ones_own(tmp_path: Path, monkeypatch) -> None:
    write_given(tmp_path)
    write_tree(tmp_path, given=GIVEN)
    run_layers(tmp_path, "zoo", "collect", "tokens", "train", experiment="given")
    folder = pack(tmp_path, "given", tmp_path / "packed", monkeypatch)
    generator = Generator.from_pretrained(folder)
    assert equal(generator.generate(seed=2), generate("given", root=tmp_path, seed=2))
    # The user's code is not in the folder, and a name in it is not imported.
    with pytest.raises(UserError, match="does not hold the code of its networks; give build="):
        generator.network(seed=2)
    network = generator.network(
        seed=2, build=lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    )
    assert equal(dict(network.state_dict()), generator.generate(seed=2))
    with pytest.raises(SystemExit):
        main(["score", "--generator", str(folder), "--weights", "x.safetensors"])


@pytest.mark.parametrize("file", ["model.safetensors", "zoo.safetensors"])
def test_a_changed_byte(taken: Path, file: str) -> None:
    content = bytearray((taken / file).read_bytes())
    content[-1] ^= 1
    (taken / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file}: missing or changed since it was packed; get the folder again"):
        Generator.from_pretrained(taken)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": 2, "version": "9.1"}, "packed by rpg 9.1, a later version; update rpg"),
        ({"states": 0}, "not written by `rpg pack`"),
        ({"states": 7}, "does not fit config.json"),
        ({"task": {"kind": "chess"}}, "not written by `rpg pack`"),
        ({"files": [{"file": "../x", "sha256": ""}]}, "not written by `rpg pack`"),
    ],
)
def test_bad_configs(taken: Path, change: dict, fault: str) -> None:
    write_sealed(taken / "config.json", {**json.loads((taken / "config.json").read_text()), **change})
    with pytest.raises(UserError, match=fault) as raised:
        Generator.from_pretrained(taken)
    assert "\n" not in str(raised.value)


def test_a_changed_config(taken: Path) -> None:
    tree = json.loads((taken / "config.json").read_text())
    (taken / "config.json").write_text(json.dumps({**tree, "name": "other"}))
    with pytest.raises(UserError, match="changed since"):
        Generator.from_pretrained(taken)


def test_one_of_experiment_and_generator(taken: Path, capsys) -> None:
    for options in ([], ["--experiment", "x", "--generator", str(taken)]):
        with pytest.raises(SystemExit):
            main(["generate", *options, "--out", "w.safetensors"])
        assert "give one of --experiment NAME and --generator FOLDER" in capsys.readouterr().err
