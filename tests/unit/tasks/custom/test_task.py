"""Your own zoo: checkpoints that were trained elsewhere, functions of the user's, and what can be wrong with both."""

import copy
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import GIVEN, POINTS, THEIRS, run_layers, write_given, write_tree
from safetensors.torch import load_file, save_file
from torch import nn

from rpg.cli import main
from rpg.config.loading import check_params, load_params
from rpg.tasks.custom import task as custom
from rpg.utils.errors import UserError

LAYERS = ("zoo", "collect", "tokens", "train", "sample", "score", "novelty")


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A working directory with the given zoo; nothing has run."""
    write_given(tmp_path)
    write_tree(tmp_path, given=GIVEN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(**blocks: dict) -> None:
    """params.yaml with other values in these blocks."""
    write_tree(Path(), given={name: {**block, **blocks.get(name, {})} for name, block in GIVEN.items()})


def zoo_fault(capsys) -> str:
    """The one line that `rpg zoo` leaves with; no shard is finished."""
    with pytest.raises(SystemExit) as left:
        main(["zoo", "--experiment", "given"])
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("zoo: ")]
    assert line.startswith("rpg: error: ")
    return line.removeprefix("rpg: error: ")


def test_every_layer_reads_the_given_zoo(here: Path, capsys) -> None:
    run_layers(here, *LAYERS, "tables", experiment="given")
    results = here / "results/given"
    checkpoints = json.loads((results / "zoo/checkpoints.json").read_text())
    assert [entry["file"] for entry in checkpoints["checkpoints"]] == [
        f"000{run}-000{run}/000{run}-00000{index}.safetensors" for run in (0, 1) for index in (0, 1, 2)
    ]
    # In the order of the numbers in their names, and each as it was.
    for index, epoch in enumerate((8, 9, 10)):
        given = torch.load(here / f"zoo/b/epoch-{epoch}.pth", weights_only=True)
        read = load_file(results / f"zoo/0001-0001/0001-00000{index}.safetensors")
        assert read.keys() == given.keys()
        assert all(torch.equal(read[name], given[name]) for name in given)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    assert checkpoints["tensors"] == list(network.state_dict())
    # The score is that of plain torch, of originals and of samples.
    points: dict = {}
    exec(POINTS, points)
    scores = json.loads((results / "scores.json").read_text())
    assert (scores["metric"], scores["parameters"]) == ("accuracy", 4 * 8 + 8 + 8 + 8 + 8 * 3 + 3)
    for split in ("validation", "test"):
        inputs, labels = points["points"](split)
        for kind, folder in (("original", "zoo"), ("rpg", "samples")):
            for entry in scores[kind]:
                network.load_state_dict(load_file(results / folder / entry["file"]))
                right = (network(inputs).argmax(1) == labels).double().mean().item()
                assert entry[split] == pytest.approx(100 * right)
    assert scores["original"][0]["validation"] == checkpoints["checkpoints"][0]["validation_accuracy"]
    rows = pd.read_csv(results / "novelty.csv")
    assert rows["iou"].notna().any()
    # A generated network is a file, scored by the same function.
    main(["generate", "--experiment", "given", "--state", "1", "--out", "new.safetensors"])
    capsys.readouterr()
    main(["score", "--experiment", "given", "--weights", "new.safetensors"])
    assert capsys.readouterr().out.startswith("new.safetensors: accuracy ")
    card = (results / "README.md").read_text()
    assert "# given: `theirs.network:build` networks for data of their own, sampled by RPG" in card
    assert "6 checkpoints of\n2 training runs" in card
    scope: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], scope)
    assert isinstance(scope["network"], nn.Module)


def test_shard_that_was_stopped_reads_every_run_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(zoo={"runs_per_shard": 2})
    train = custom.Custom.train

    def stopped(task: custom.Custom, zoo, runs, base, save) -> None:
        if runs[0].seed == 1:
            raise KeyboardInterrupt
        train(task, zoo, runs, base, save)

    monkeypatch.setattr(custom.Custom, "train", stopped)
    with pytest.raises(SystemExit):
        run_layers(here, "zoo", experiment="given")
    monkeypatch.setattr(custom.Custom, "train", train)
    shard = here / "results/given/zoo/0000-0001"
    assert (shard / "0000-000000.safetensors").exists()
    state_dict = torch.load(here / "zoo/a/epoch-8.pth", weights_only=True)
    torch.save({**state_dict, "0.bias": state_dict["0.bias"] + 1}, here / "zoo/a/epoch-8.pth")
    run_layers(here, "zoo", experiment="given")
    assert torch.equal(load_file(shard / "0000-000000.safetensors")["0.bias"], state_dict["0.bias"] + 1)


def test_zoo_of_one_checkpoint_has_no_distances_to_measure_by(here: Path) -> None:
    change(zoo={"runs": ["zoo/a/epoch-9.pth"]}, novelty={"networks": 2})
    run_layers(here, *LAYERS, "tables", experiment="given")
    told = Path("results/tables.md").read_text()
    assert re.search(r"^\| given +\| +2 \| +one run \| +0\.\d+ / - \|", told, re.M)
    assert "The zoo has one checkpoint alone: there is no distance between checkpoints" in told


def test_a_plain_number_is_a_score_without_answers(here: Path) -> None:
    (here / "theirs/network.py").write_text(
        THEIRS + "\ndef percent(network, split):\n    return 50.0 + float(network[0].bias.mean().tanh())\n"
    )
    change(task={"score": "theirs.network:percent"})
    run_layers(here, *LAYERS, "tables", experiment="given")
    rows = pd.read_csv("results/given/novelty.csv")
    assert not {"iou", "disagreement"} & set(rows.columns)
    novelty = json.loads(Path("results/given/novelty.json").read_text())
    assert novelty["rpg"]["all"]["ensemble"] == {}
    scores = json.loads(Path("results/given/scores.json").read_text())
    assert [entry["validation"] for entry in scores["original"]][:2] == pytest.approx([50.664, 50.716], abs=1e-3)
    tables = Path("results/tables.md").read_text().replace(" ", "")
    assert "|given|accuracy|" in tables
    assert "|-/-|-/-|-|" in tables


def test_a_run_at_the_end_leaves_the_other_shards_as_they_are(here: Path) -> None:
    before = load_params().experiment("given")
    shutil.copytree("zoo/a", "zoo/c")
    change(zoo={"runs": ["zoo/a", "zoo/b", "zoo/c"]})
    after = load_params().experiment("given")
    assert list(after.shards()) == [*before.shards(), "0002-0002"]
    for shard, runs in before.shards().items():
        assert after.recipe(after.shards()[shard]) == before.recipe(runs)
    assert after.recipe(after.shards()["0002-0002"])["zoo"] == {
        "runs_per_shard": 1,
        "runs": [{"seed": 2, "code": None, "held_out": False, "folder": "zoo/c"}],
    }
    run_layers(here, "zoo", "collect", experiment="given")
    change(zoo={"runs": ["zoo/b", "zoo/a", "zoo/c"]})
    with pytest.raises(SystemExit):
        run_layers(here, "collect", experiment="given")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_a_run_may_be_one_file_of_any_kind(here: Path, suffix: str) -> None:
    state = torch.load("zoo/a/epoch-9.pth", weights_only=True)
    for name in ("x", "y"):
        if suffix == ".safetensors":
            save_file(state, f"{name}{suffix}")
        else:
            torch.save(state, f"{name}{suffix}")
    change(zoo={"runs": [f"x{suffix}", f"y{suffix}"]})
    run_layers(here, "zoo", "collect", "tokens", experiment="given")
    assert torch.equal(load_file("results/given/zoo/0001-0001/0001-000000.safetensors")["3.weight"], state["3.weight"])


def test_tensors_that_share_memory_are_read(here: Path) -> None:
    state = torch.load("zoo/a/epoch-9.pth", weights_only=True)
    state["1.bias"] = state["1.weight"] = torch.full((8,), 0.5)
    torch.save(state, "zoo/a/epoch-9.pth")
    run_layers(here, "zoo", experiment="given")


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("run",)


def states(name: str, change) -> None:
    """Write a checkpoint of the first run again after `change` of its state dict."""
    path = Path("zoo/a") / name
    state = torch.load(path, weights_only=True)
    torch.save(change(state) or state, path)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            lambda: states("epoch-9.pth", lambda s: s.update({"0.bias": torch.zeros(5)})),
            "zoo/a/epoch-9.pth: does not fit what theirs.network:build builds: tensor '0.bias' has shape [5], not [8]",
        ),
        (
            lambda: states("epoch-9.pth", lambda s: {k: v for k, v in s.items() if k != "3.weight"}),
            "zoo/a/epoch-9.pth: does not fit what theirs.network:build builds: tensor '3.weight' is missing",
        ),
        (
            lambda: states("epoch-9.pth", lambda s: {**s, "4.weight": torch.zeros(2)}),
            "builds: tensor '4.weight' belongs to no module of the network",
        ),
        (
            lambda: states("epoch-9.pth", lambda s: {f"module.{k}": v for k, v in s.items() if k != "3.weight"}),
            "tensor '3.weight' is missing",
        ),
        (
            lambda: states("epoch-9.pth", lambda s: {"epoch": 9, "a": s, "b": s}),
            "epoch-9.pth: holds several state dicts; name one in zoo.weights: 'a', 'b'",
        ),
        (
            lambda: states("epoch-9.pth", lambda s: {"epoch": 9, "optimizer": {"state": {0: s}}}),
            "epoch-9.pth: not a state dict (names to tensors), but epoch, optimizer; save `model.state_dict()` alone",
        ),
        (
            lambda: states("epoch-10.pth", lambda s: s.update({"0.bias": torch.full((8,), torch.nan)})),
            "zoo/a/epoch-10.pth: tensor '0.bias' holds NaN or Inf; take this checkpoint out of the folder",
        ),
        (
            lambda: Path("zoo/a/epoch-8.pth").write_bytes(Path("zoo/a/epoch-8.pth").read_bytes()[:700]),
            "zoo/a/epoch-8.pth: refused, because it is truncated or holds more than weights",
        ),
        (
            lambda: torch.save({"0.weight": Evil()}, "zoo/a/epoch-8.pth"),
            "zoo/a/epoch-8.pth: refused, because it holds more than weights (print)",
        ),
        (
            lambda: Path("zoo/a/epoch-1.safetensors").write_bytes(b"xx"),
            "zoo/a/epoch-1.safetensors: not a complete safetensors file",
        ),
        (lambda: shutil.rmtree("zoo/a"), "params.yaml: zoo.runs: no folder 'zoo/a'; a path starts at the folder of"),
        (
            lambda: [path.unlink() for path in Path("zoo/a").iterdir()],
            "zoo/a: no checkpoint (.safetensors .pth .pt .bin .ckpt .pth.tar) in it; take it out of zoo.runs",
        ),
    ],
)
def test_a_checkpoint_s_fault_is_one_line(here: Path, capsys, spoil, line: str) -> None:
    spoil()
    assert line in zoo_fault(capsys)
    assert not (here / "results/given/zoo/0000-0000/manifest.json").exists()


@pytest.mark.parametrize(
    ("code", "task", "line"),
    [
        (
            "",
            {"build": "thiers.network:build"},
            "task.build 'thiers.network:build': there is no module thiers.network in",
        ),
        (
            "",
            {"score": "theirs.network:scores"},
            "task.score 'theirs.network:scores': theirs.network has no function sc",
        ),
        ("x = 1", {"score": "theirs.network:x"}, "theirs.network has no function x"),
        (
            "import not_there",
            {},
            "importing it raises ModuleNotFoundError: No module named 'not_there' (theirs/network",
        ),
        ("x = 1 / 0", {}, "importing it raises ZeroDivisionError: division by zero (theirs/network.py, line 13)"),
        ("def (", {}, "importing it raises SyntaxError"),
        ("raise SystemExit(3)", {}, "importing it raises SystemExit: 3"),
        (
            "def build():\n    return {}",
            {},
            "task.build 'theirs.network:build': must return a torch.nn.Module, not dict",
        ),
        ("def build():\n    return nn.ReLU()", {}, "task.build 'theirs.network:build': the network has no weights"),
        (
            "def build():\n    open('no.txt')",
            {},
            "raises FileNotFoundError: [Errno 2] No such file or directory: 'no.t",
        ),
        (
            "def score(network, split):\n    return network.there",
            {},
            "task.score 'theirs.network:score': raises AttributeError: 'Sequential' object has no attribute 'there'"
            " (theirs/network.py, line 14)",
        ),
        ("def score(network):\n    return 1.0", {}, "raises TypeError: score() takes 1 positional argument but 2"),
        ("def score(network, split):\n    return 101", {}, "must return a percentage from 0 to 100, not 101.0"),
        ("def score(network, split):\n    return float('nan')", {}, "must return a percentage from 0 to 100, not nan"),
        (
            "def score(network, split):\n    return 'good'",
            {},
            "must return a percentage or (answers, targets), not good",
        ),
        ("def score(network, split):\n    pass", {}, "must return a percentage or (answers, targets), not None"),
        (
            "def score(network, split):\n    return torch.zeros(3), torch.zeros(3)",
            {},
            "answers and targets must both be whole numbers [n], not torch.float32 [3] and torch.float32 [3]",
        ),
        (
            "def score(network, split):\n    return torch.arange(3), torch.arange(4)",
            {},
            "must both be whole numbers [n], not torch.int64 [3] and torch.int64 [4]",
        ),
        (
            "def score(network, split, k=[]):\n    k.append(0)\n    return torch.arange(3), torch.arange(3) * len(k)",
            {},
            "the targets of validation differ between calls; do not shuffle them",
        ),
    ],
)
def test_a_function_s_fault_is_one_line(here: Path, capsys, code: str, task: dict, line: str) -> None:
    (here / "theirs/network.py").write_text(f"{THEIRS}\n{code}\n")
    change(task=task)
    assert line in zoo_fault(capsys)


def test_what_the_functions_draw_is_the_same_each_time_and_moves_nothing(here: Path) -> None:
    (here / "theirs/network.py").write_text(
        f"{THEIRS}\ndef score(network, split):\n    network.train()\n    return 90 + torch.rand(()).item()\n"
    )
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run_layers(here, "zoo", experiment="given")
    assert torch.equal(torch.rand(2), expected)
    manifest = json.loads((here / "results/given/zoo/0000-0000/manifest.json").read_text())
    assert len({entry["validation_accuracy"] for entry in manifest["checkpoints"]}) == 1


def test_weights_that_do_not_fit_are_told_when_scored(here: Path, capsys) -> None:
    save_file({"0.weight": torch.zeros(8, 4)}, "w.safetensors")
    with pytest.raises(SystemExit):
        main(["score", "--experiment", "given", "--weights", "w.safetensors"])
    assert (
        "the weights do not fit what theirs.network:build builds: tensor '0.bias' is missing" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("where", "value", "line"),
    [
        (
            ("base",),
            {"seeds": [0], "steps": 1, "batch": 1, "learning_rate": 0.1, "weight_decay": 0.0, "shift": 0},
            "base: ",
        ),
        (("zoo",), {"runs": ["a", "./a"], "runs_per_shard": 1}, "runs: a folder is listed twice; remove one"),
        (("zoo",), {"runs": [], "runs_per_shard": 1}, "zoo.runs: list should have at least 1 item"),
        (("zoo", "seeds"), [0], "zoo.seeds: unknown key"),
        (("task", "build"), "theirs.network", "task.build: string should match pattern"),
        (("task", "data"), "digits", "task.data: unknown key"),
        (("sample", "seen"), 3, "sample.seen: needs task.kind task_codes"),
        (
            ("model", "conditions"),
            [{"kind": "task_code", "hidden": None, "reach": "all"}],
            "needs task.kind task_codes",
        ),
    ],
)
def test_a_fault_in_params_is_one_line(here: Path, where: tuple[str, ...], value: object, line: str) -> None:
    tree = copy.deepcopy(GIVEN)
    *above, last = where
    node = tree
    for key in above:
        node = node[key]
    node[last] = value
    settings = {"data_root": None, "language_model": None, "ablations": {}}
    with pytest.raises(UserError) as error:
        check_params({**settings, "run": ["given"], "experiments": {"given": tree}})
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_trained_zoo_takes_no_runs(finished: Path) -> None:
    from conftest import MINIATURE, SETTINGS

    mini = {**MINIATURE, "zoo": GIVEN["zoo"]}
    with pytest.raises(UserError, match=r"experiments\.mini\.zoo\.seeds: missing"):
        check_params({**SETTINGS, "run": ["mini"], "experiments": {"mini": mini}})


def test_canonical_is_of_adapters_alone(here: Path, capsys) -> None:
    change(tokens={"canonical": True})
    assert "params.yaml: tokens.canonical: only adapters have it; remove the key" in zoo_fault(capsys)


TINY = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

def build():
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=32, **sizes))
    return get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"]))

def score(network, split):
    ids = torch.arange(20).reshape(4, 5) + (split == "test")
    return network(input_ids=ids).logits[:, -1].argmax(-1), ids[:, 0]
"""


@pytest.fixture
def adapters(tmp_path: Path, monkeypatch) -> Path:
    """A working directory with a zoo of adapters: two runs of two, one of each as a pickle."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(TINY)
    scope: dict = {}
    exec(TINY, scope)
    for seed, run in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model = scope["build"]()
        for index, name in enumerate(("checkpoint-2", "checkpoint-10")):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter += torch.randn_like(parameter) * 0.3
            model.save_pretrained(tmp_path / "zoo" / run / name, safe_serialization=bool(index))
            # What a trainer leaves beside them.
            torch.save({"state": {}, "lr": 0.1}, tmp_path / "zoo" / run / name / "optimizer.pt")
    task = {"build": "tiny:build", "score": "tiny:score"}
    change(task=task, tokens={"canonical": True})
    return tmp_path


def test_a_zoo_of_adapters(adapters: Path, capsys) -> None:
    run_layers(adapters, *LAYERS, "tables", experiment="given")
    results = adapters / "results/given"
    entries = json.loads((results / "zoo/checkpoints.json").read_text())["checkpoints"]
    assert [entry["file"] for entry in entries] == [
        f"000{run}-000{run}/000{run}-00000{index}/adapter_model.safetensors" for run in (0, 1) for index in (0, 1)
    ]
    given = load_file("zoo/a/checkpoint-10/adapter_model.safetensors")
    read = load_file(results / "zoo/0000-0000/0000-000001/adapter_model.safetensors")
    assert read.keys() == given.keys()
    assert all(torch.equal(read[name], given[name]) for name in given)
    scores = json.loads((results / "scores.json").read_text())
    assert scores["parameters"] == sum(tensor.numel() for tensor in given.values())
    # A sample opens with peft alone, and scores as the tables say.
    import tiny
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    capsys.readouterr()
    main(["score", "--experiment", "given", "--weights", str(results / "samples/0001/adapter_model.safetensors")])
    assert capsys.readouterr().out.endswith(f"accuracy {scores['rpg'][1]['test']:.2f}\n")
    base = tiny.build().unload()
    assert isinstance(base, LlamaForCausalLM)
    PeftModel.from_pretrained(base, results / "samples/0001")
    main(["generate", "--experiment", "given", "--state", "1", "--out", "new"])
    assert load_file("new/adapter_model.safetensors").keys() == given.keys()
    card = (results / "README.md").read_text()
    assert "library_name: peft" in card
    exec(card.split("```python\n")[1].split("```")[0], {})


def test_faults_of_adapters_are_one_line(adapters: Path, capsys) -> None:
    config = adapters / "zoo/a/checkpoint-2/adapter_config.json"
    tree = json.loads(config.read_text())
    config.write_text(json.dumps({**tree, "lora_alpha": 8}))
    assert (
        zoo_fault(capsys)
        == "zoo/a/checkpoint-2/adapter_config.json: lora_alpha is 8, but tiny:build has 4; make them equal"
    )
    config.write_text("{")
    assert "adapter_config.json: cannot be read" in zoo_fault(capsys)
    config.write_text(json.dumps(tree))
    shutil.rmtree("zoo/b")
    write_given(adapters)
    assert "zoo/b: no adapter (a folder with adapter_config.json) in it" in zoo_fault(capsys)
    shutil.rmtree("zoo/b")
    shutil.copytree("zoo/a", "zoo/b")
    change(task={"build": "tiny:build", "score": "tiny:score"}, tokens={})
    assert "tokens.canonical: missing; adapters need true or false" in zoo_fault(capsys)
