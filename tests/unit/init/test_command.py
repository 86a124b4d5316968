"""`rpg init` from checkpoints to samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from foreign import (
    fault,
    network,
    run_all,
    save,
    state,
    told,
    write_functions,
    write_presets,
    write_ray,
    write_runs,
    written,
)
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from rpg.cli import main
from rpg.init import command
from rpg.init.command import init
from rpg.init.request import InitRequest
from rpg.utils.errors import UserError

NETWORK = "network: 9 tensors with 100 numbers, float32, int64; all checkpoints have these tensors"
TOKENS = "tokens: RPG generates 99 numbers of each network, as 10 tokens of 16"
NO_BUILD = "round trip: give --build to compare the networks' outputs"
END = [
    "next: snakemake --cores all results/new/novelty.json",
    "then: rpg generate --experiment new --out new.safetensors",
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with params.yaml and the module `mine`."""
    monkeypatch.chdir(tmp_path)
    write_presets(tmp_path)
    write_functions(tmp_path)


def difference(line: str) -> float:
    """The number in a line on a round trip."""
    return float(line.split(" by at most ")[1].split()[0])


def test_networks_with_code_and_score(capsys) -> None:
    write_runs()
    main(["init", "new", "--checkpoints", "zoo/*", "--build", "mine:build", "--score", "mine:score"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "found: 4 checkpoints, 2 of each of 2 runs; each folder is a run",
        "written by: torch.save, a state dict",
        NETWORK,
        TOKENS,
    ]
    assert difference(lines[4]) < 1e-6
    before, after = lines[5].removeprefix("round trip: score ").split(" before, ")
    assert f"{before} after" == after
    states = "states: 0 is zoo/0, 1 is zoo/1"
    assert lines[6:9] == [states, "params.yaml: added", "  # 4 checkpoints of 2 runs, by `rpg init`."]
    assert lines[-2:] == END
    assert Path("params.yaml").read_text().endswith("\n".join(["", *lines[8:-2]]) + "\n")
    assert written() == {
        "extends": "any-zoo",
        "task": {"kind": "custom", "build": "mine:build", "score": "mine:score", "metric": "score"},
        "zoo": {"runs": ["zoo/*"], "runs_per_shard": 1},
        "tokens": {"width": 16},
        "model": {"backbone": {"width": 64}},
        "train": {"steps": 370, "batch": 4},
    }


def test_a_score_of_another_unit() -> None:
    write_runs()
    Path("mine.py").write_text(Path("mine.py").read_text() + "\ndef loss(network, split):\n    return -2.5\n")
    lines = told("zoo/*", build="mine:build", score="mine:loss", metric="psnr", unit="dB", lower_is_better=True)
    assert lines[5] == "round trip: psnr -2.500 dB before, -2.500 dB after"
    task = {"kind": "custom", "build": "mine:build", "score": "mine:loss", "metric": "psnr"}
    assert written()["task"] == {**task, "unit": "dB", "lower_is_better": True}


def test_networks_with_code_alone_are_compared_by_their_outputs() -> None:
    write_runs()
    lines = told("zoo/*/*.pth", build="mine:build")
    assert lines[0] == "found: 4 checkpoints, 2 of each of 2 runs; the checkpoints of a folder are a run"
    assert lines[5].startswith("round trip: outputs for inputs [2, 4] change by at most ")
    assert difference(lines[5]) < 1e-5
    assert written()["zoo"] == {"runs": ["zoo/*/*.pth"], "state_from": "(.*)/", "runs_per_shard": 1}
    assert written()["task"] == {"kind": "custom", "build": "mine:build"}


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1))", "round trip: outputs for inputs [2, 3, 32, 32]"),
        ("nn.Sequential(nn.Conv1d(3, 2, 50))", "round trip: outputs for inputs [2, 3, 224]"),
        ("nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))", "round trip: outputs for inputs [2, 8]"),
        ("nn.Bilinear(3, 2, 4)", "round trip: outputs not compared, because no guess of the inputs fits; give --score"),
    ],
)
def test_inputs_are_guessed_from_the_first_module(code: str, line: str) -> None:
    Path("mine.py").write_text(f"from torch import nn\n\ndef build():\n    return {code}\n")
    for run in range(2):
        torch.manual_seed(run)
        save(f"zoo/{run}.pth", eval(code).state_dict())
    assert told("zoo/*", build="mine:build")[5].startswith(line)


def test_weights_alone(capsys) -> None:
    """Without code, RPG still reads, learns, samples and measures; half precision stays, and buffers are copied."""
    for run in range(2):
        for epoch in (1, 2):
            fixed = {"mask": torch.full((3,), float(run)), "attn_mask": torch.full((2, 2), -torch.inf).triu(1)}
            tree = state(run, epoch, torch.float16)
            tied = {"head.weight": tree["3.weight"], "weight_u": torch.full((8,), float(run))}
            save(f"zoo/seed-{run}_epoch={epoch}.pth", {**tree, **fixed, **tied})
    lines = told("zoo/*", held_out=[])
    assert lines[0] == (
        "found: 4 checkpoints, 2 of each of 2 runs; checkpoints that differ in their count of epochs or steps are a run"
    )
    assert lines[2].startswith("network: 13 tensors with 139 numbers, float16, float32, int64;")
    assert lines[3].endswith("; copied: state of the network: attn_mask, weight_u; tied to another tensor: head.weight")
    assert lines[5] == NO_BUILD
    assert written()["task"] == {"kind": "custom"}
    results = run_all()
    for index in range(3):
        sample = load_file(results / f"samples/{index:04d}.safetensors")
        assert {name: tensor.dtype for name, tensor in sample.items() if name in ("0.weight", "mask")} == {
            "0.weight": torch.float16,
            "mask": torch.float32,
        }
        assert torch.equal(sample["head.weight"], sample["3.weight"])
        assert torch.equal(sample["attn_mask"], torch.full((2, 2), -torch.inf).triu(1))
        assert sample["weight_u"].unique().tolist() in ([0.0], [1.0])
    text = (results / "metrics.json").read_text()
    assert '"metric": "distance"' in text
    assert '"unit": "standard deviations"' in text
    check_generator(capsys, results, ".safetensors")
    with pytest.raises(SystemExit):
        main(["plan", "--experiment", "new"])
    assert capsys.readouterr().err == (
        "rpg: error: params.yaml: task.build: missing; this needs the network, so name a function that builds it\n"
    )


def check_generator(capsys, results: Path, suffix: str) -> None:
    """A generated network is as the samples are, from the experiment and from the packed generator."""
    name = "0000/adapter_model.safetensors" if not suffix else f"0000{suffix}"
    sample = load_file(results / "samples" / name)
    main(["generate", "--experiment", "new", "--state", "1", "--out", f"one{suffix}"])
    main(["pack", "--experiment", "new", "--out", "packed"])
    for runtime in ("torch", "onnx"):
        out = ["--state", "1", "--out", f"{runtime}{suffix}", "--runtime", runtime]
        main(["generate", "--generator", "packed", *out])
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(": state 1")] == [
        f"{one}{suffix}: state 1" for one in ("one", "torch", "onnx")
    ]
    files = [f"{one}/adapter_model.safetensors" if not suffix else f"{one}{suffix}" for one in ("one", "torch", "onnx")]
    first, second, third = map(load_file, files)
    assert {name: (x.shape, x.dtype) for name, x in first.items()} == {n: (x.shape, x.dtype) for n, x in sample.items()}
    assert first.keys() == second.keys() == third.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert third[name].dtype == tensor.dtype
        torch.testing.assert_close(third[name], tensor, rtol=1e-3, atol=1e-3)


def base_network() -> nn.Sequential:
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def test_adapters_without_code(capsys) -> None:
    """An adapter's folder stands for the settings; a sample opens by peft."""
    for run in range(2):
        model = get_peft_model(base_network(), LoraConfig(r=2, lora_alpha=4, target_modules=["0", "2"]))
        for epoch in (1, 2):
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter += torch.randn_like(parameter, generator=None) * 0.3
            model.save_pretrained(f"zoo/{run}/checkpoint-{epoch}")
    # Whatever the pattern matches: the run's folders, the adapters' folders, or their files.
    text = Path("params.yaml").read_text()
    blocks = []
    for pattern in ("zoo/*/*/*", "zoo/*/*", "zoo/*"):
        Path("params.yaml").write_text(text)
        lines = told(pattern)
        assert lines[1].startswith("written by: peft ")
        assert lines[2].startswith("network: 4 tensors with 56 numbers, float32;")
        blocks.append(written())
    assert [block["task"] for block in blocks] == [{"kind": "custom", "adapter": "zoo/0/checkpoint-1"}] * 3
    assert [block["tokens"] for block in blocks] == [{"width": 16, "canonical": True}] * 3
    assert blocks[2]["zoo"] == {"runs": ["zoo/*"], "runs_per_shard": 1}
    results = run_all()
    opened = PeftModel.from_pretrained(base_network(), str(results / "samples/0000"))
    assert opened.peft_config["default"].lora_alpha == 4
    capsys.readouterr()
    check_generator(capsys, results, "")


def test_runs_by_regular_expression() -> None:
    for run in range(2):
        for epoch in (1, 2):
            save(f"zoo/net_{run}_{epoch}.pth", state(run, epoch))
    assert (
        told("zoo/*")[0]
        == "found: 4 checkpoints, 1 of each of 4 runs; each checkpoint is a run; --state-from groups them"
    )
    write_presets(Path())
    lines = told("zoo/*", state_from=r"net_(\d)")
    assert lines[0] == r"found: 4 checkpoints, 2 of each of 2 runs; the text that 'net_(\d)' captures is a run"
    assert written()["zoo"] == {"runs": ["zoo/*"], "state_from": r"net_(\d)", "runs_per_shard": 1}


def test_a_run_that_rpg_never_sees() -> None:
    """Its checkpoints are scored and measured, and they are not learned."""
    write_runs("zoo/lr=[0.1] {}/{}.pth", runs=3)
    told("zoo/*", held_out=["zoo/lr=[0.1] 1"])
    assert written()["zoo"]["held_out"] == ["zoo/lr=[0.1] 1"]
    results = run_all()
    layout = yaml.safe_load((results / "tokens/layout.json").read_text())
    assert [entry["file"] for entry in layout["held_out"]] == [
        f"0001-0001/0001-00000{step}.safetensors" for step in (0, 1)
    ]
    assert layout["seeds"] == [0, 2]
    metrics = yaml.safe_load((results / "metrics.json").read_text())
    assert (metrics["original"]["n"], metrics["held_out_runs"]["n"]) == (4, 2)
    assert metrics["original"]["mean"] == pytest.approx(0, abs=1e-6)
    # Two runs of random weights differ by about the root of two standard deviations.
    assert 0.8 < metrics["held_out_runs"]["mean"] < 2
    rows = [line.split(",")[0] for line in (results / "novelty.csv").read_text().splitlines()]
    assert rows.count("held-out run") == 2


def test_facts_become_conditions() -> None:
    write_runs()
    rows = [f"zoo/{run}/{epoch}.pth,{run + epoch / 10},{'ab'[run]}" for run in (0, 1) for epoch in (1, 2)]
    Path("facts.csv").write_text("\n".join(["checkpoint,rate,kind", *rows]))
    assert "conditions: rate, kind" in told("zoo/*", facts=Path("facts.csv"))
    assert written()["zoo"]["facts"] == "facts.csv"
    assert [one.get("field") for one in written()["model"]["conditions"]] == [None, "rate", "kind"]
    assert not Path("zoos").exists()


def test_ray_tune(capsys) -> None:
    """Hyperparameters and metrics become conditions; a request takes them by name."""
    write_ray()
    lines = told("zoo/tune/report*")
    assert lines[:2] == ["found: 8 checkpoints, 2 of each of 4 runs; each folder is a run", "written by: Ray Tune"]
    assert lines[3:5] == [
        "facts: zoos/new/facts.csv has 8 rows of act, optimizer.rate, loss, training_iteration",
        "conditions: act, optimizer.rate, loss, training_iteration",
    ]
    table = Path("zoos/new/facts.csv").read_text().splitlines()
    assert (len(table), table[0]) == (9, "checkpoint,act,optimizer.rate,loss,training_iteration")
    run_all()
    capsys.readouterr()
    words = ["--vector", "optimizer.rate=0.15", "--vector", "act=1,0", "--state", "2"]
    main(["generate", "--experiment", "new", *words, "--out", "x.safetensors"])
    assert capsys.readouterr().out == "x.safetensors: state 2\n"
    assert load_file("x.safetensors")["0.weight"].shape == (8, 4)
    check_generator(capsys, Path("results/new"), ".safetensors")


@pytest.mark.parametrize("build", [None, "mine:build"])
def test_an_array_with_a_table(build: str | None) -> None:
    own = network()
    draw = np.random.default_rng(0)
    count = sum(parameter.numel() for parameter in own.parameters())
    rows = draw.standard_normal((5, count)).astype(np.float32)
    np.save("rows.npy", rows)
    Path("metrics.csv").write_text("accuracy\n" + "\n".join(map(str, range(5))))
    lines = told("rows.npy", build=build, facts=Path("metrics.csv"))
    tensors = "9 tensors with 100 numbers, float32, int64" if build else "1 tensor with 83 numbers, float32"
    assert lines[:6] == [
        "rows.npy: 5 networks of 83 weights, a file each in zoos/new",
        "found: 5 checkpoints, 1 of each of 5 runs; each row is a run",
        "written by: a state dict of safetensors",
        f"network: {tensors}; all checkpoints have these tensors",
        "facts: zoos/new/facts.csv has 5 rows of accuracy",
        "conditions: accuracy",
    ]
    assert written()["zoo"] == {"runs": ["zoos/new/*.safetensors"], "facts": "zoos/new/facts.csv", "runs_per_shard": 1}
    assert "start" not in written()["model"]
    results = run_all()
    sample = load_file(results / "samples/0000.safetensors")
    if build:
        own.load_state_dict(sample)
        assert torch.equal(sample["1.running_var"], torch.ones(8))
    else:
        assert [(name, tuple(tensor.shape)) for name, tensor in sample.items()] == [("weights", (83,))]


def test_chosen_tensors_alone_are_generated() -> None:
    """All others are bit by bit those of the last checkpoint of the sample's run."""
    write_runs()
    lines = told("zoo/*", only=["3.*"])
    assert "RPG generates 27 numbers of each network, as 3 tokens of 16; copied: left out by" in lines[3]
    assert written()["tokens"] == {"width": 16, "only": ["3.*"]}
    results = run_all()
    manifest = yaml.safe_load((results / "samples/manifest.json").read_text())
    for entry in manifest["samples"]:
        sample, last = load_file(results / "samples" / entry["file"]), state(entry["state"], 2)
        for name, tensor in last.items():
            assert torch.equal(sample[name], tensor) is not name.startswith("3."), name


def test_a_network_in_several_files() -> None:
    """The index stands for its folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for run in range(2):
        torch.manual_seed(run)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=32, **sizes))
        model.save_pretrained(f"zoo/{run}", max_shard_size="2KB")
    lines = told("zoo/*/*.index.json")
    assert lines[0] == "found: 2 checkpoints, 1 of each of 2 runs; each checkpoint is a run; --state-from groups them"
    assert written()["zoo"]["runs"] == ["zoo/0", "zoo/1"]


def test_several_patterns_and_paths_above() -> None:
    write_runs("zoo/a b=1/{}/{}.pth")
    save("zoo/last/1.pth", state(5, 1))
    save("zoo/last/2.pth", state(5, 2))
    here = Path.cwd().name
    assert (
        told("zoo/a b=1/*", f"../{here}/zoo/last")[0]
        == "found: 6 checkpoints, 2 of each of 3 runs; each folder is a run"
    )
    assert written()["zoo"]["runs"] == ["zoo/a b=1/*", f"../{here}/zoo/last"]


def test_what_to_look_at() -> None:
    for run in range(3):
        save(f"zoo/{run}.pth", state(run, 1))
    assert told("zoo")[3] == (
        "look: the checkpoints of zoo differ as much as those of separate runs; if they are, match its files, as"
        " --checkpoints 'zoo/*'"
    )
    write_presets(Path())
    assert told("zoo/*", state_from="zoo")[3].endswith("; if they are, group them by --state-from")
    write_presets(Path())
    for epoch in range(3):
        save(f"flat/{epoch}.pth", state(0, epoch))
    assert told("flat/*")[3:5] == [
        "look: the runs are alike, as networks that were fine-tuned from one; RPG starts from their mean",
        "look: if they are saves of one training instead, group them by --state-from",
    ]
    assert written()["model"]["start"] == "mean"


def test_types_of_numbers_must_agree() -> None:
    """`rpg tokens` can't mix them; the line names the user's own file, and nothing is written."""
    before = write_presets(Path())
    save("zoo/a/1.pth", state(0, 1))
    save("zoo/b/1.pth", state(1, 1, torch.float16))
    with pytest.raises(UserError) as error:
        told("zoo/*/*.pth")
    assert str(error.value) == (
        "zoo/b/1.pth: tensor '0.weight' is of another type than in zoo/a/1.pth, float16 and float32; save all in one"
        " type"
    )
    assert Path("params.yaml").read_text() == before


def test_a_run_is_held_out_by_the_last_part_of_its_path() -> None:
    write_runs()
    for epoch in (1, 2):
        save(f"zoo/c/{epoch}.pth", state(5, epoch))
    lines = told("zoo/*", held_out=["c"])
    assert [line for line in lines if line.startswith(("states: ", "held out: "))] == [
        "states: 0 is zoo/0, 1 is zoo/1",
        "held out: zoo/c",
    ]
    # Only runs that RPG learns from count.
    assert written()["train"]["steps"] == 370


class Evil:
    """Runs code when a pickle of it is opened without care."""

    def __reduce__(self) -> tuple:
        return print, ("run",)


def nan() -> None:
    save("zoo/a.pth", state(0, 1))
    save("zoo/b.pth", {**state(1, 1), "0.bias": torch.full((8,), torch.nan)})


def mixed() -> None:
    save("zoo/a.pth", state(0, 1))
    save("zoo/b.pth", nn.Linear(4, 9).state_dict())


def evil() -> None:
    save("zoo/a.pth", {"0.weight": Evil()})
    save("zoo/b.pth", state(1, 1))


def both_kinds() -> None:
    write_runs(runs=1)
    save("zoo/b.pth", state(1, 1))


def with_optimizer() -> None:
    write_runs()
    save("zoo/0/optimizer.pt", {"state": {}})


def distributed() -> None:
    from torch.distributed import checkpoint

    for epoch in (1, 2):
        checkpoint.save({"model": state(0, epoch)}, checkpoint_id=f"zoo/a/step-{epoch}", no_dist=True)


def array(columns: int = 4, table: int = 3) -> Callable[[], None]:
    def write() -> None:
        np.save("rows.npy", np.random.default_rng(0).standard_normal((3, columns)))
        Path("t.csv").write_text("rate\n" + "1\n" * table)

    return write


def braces() -> None:
    write_runs("zoo/{{{}}}/{}.pth")


def table() -> None:
    write_runs()
    Path("t.csv").write_text("checkpoint,rate\nzoo/0/1.pth,1\nzoo/0/2.pth,2\nzoo/1/1.pth,3\n")


DISTRIBUTED = (
    "zoo/a/step-1: only code can read a torch.distributed.checkpoint; convert it by"
    " `python -m torch.distributed.checkpoint.format_utils dcp_to_torch zoo/a/step-1 zoo/a/step-1.pth`"
)
NO_PATTERN = "--checkpoints: the shell has put matches in a pattern's place; quote it, as 'runs/*/*.ckpt'"


@pytest.mark.parametrize(
    ("write", "words", "line"),
    [
        (write_runs, "nothing/*", "--checkpoints nothing/*: nothing matches; quote the pattern, or correct it"),
        (write_runs, "zoo/0 zoo/1", NO_PATTERN),
        (
            mixed,
            "zoo/*",
            "zoo/b.pth: is no network like zoo/a.pth: tensor '0.weight' is missing; leave one of them out",
        ),
        (
            mixed,
            "zoo/* --build mine:build",
            "zoo/b.pth: does not fit what mine:build builds: tensor '0.weight' is missing",
        ),
        (write_runs, "zoo/0/1.pth", "zoo/0/1.pth: is the only checkpoint; RPG learns from two or more"),
        (nan, "zoo/*", "zoo/b.pth: tensor '0.bias' holds NaN or Inf; take this checkpoint out of the folder"),
        (evil, "zoo/*", "zoo/a.pth: refused, because it holds more than weights (print); save a state dict"),
        (write_runs, "zoo/* --score mine:score", "--score: needs the network; add --build"),
        (write_runs, "zoo/* --metric loss", "--metric: belongs to a score; add --score"),
        (write_runs, "zoo/* --unit dB", "--unit: belongs to a score; add --score"),
        (write_runs, "zoo/* --lower-is-better", "--lower-is-better: belongs to a score; add --score"),
        (write_runs, "zoo/* --held-out zoo/x", "--held-out zoo/x: no such run; known: zoo/0, zoo/1"),
        (write_runs, "zoo/* --held-out *", "zoo: held_out: RPG would learn from no run; remove a name"),
        (
            write_runs,
            "zoo/* --state-from (",
            "zoo.state_from: no regular expression (missing ), unterminated subpattern at position 0)",
        ),
        (
            write_runs,
            "zoo/*/* --state-from x",
            "params.yaml: zoo.state_from 'x' matches nothing in 'zoo/0/1.pth'; correct it",
        ),
        (
            both_kinds,
            "zoo/*",
            "--checkpoints: zoo/0 has several checkpoints, but zoo/b.pth is one; match either kind alone",
        ),
        (
            with_optimizer,
            "zoo/*/*",
            "--checkpoints: zoo/0/optimizer.pt is no checkpoint (.safetensors .pth .pt .bin .ckpt .pth.tar); give a"
            " pattern that leaves it out",
        ),
        (distributed, "zoo/*", DISTRIBUTED),
        (distributed, "zoo/a/*", DISTRIBUTED),
        (distributed, "zoo/a/*/*", DISTRIBUTED),
        (
            array(),
            "rows.npy --build mine:build",
            "rows.npy: a row has 4 weights, but the network of --build has 83 parameters",
        ),
        (array(table=2), "rows.npy --facts t.csv", "t.csv: has 2 rows, but the array has 3"),
        (
            array(),
            "rows.npy --state-from x",
            "--state-from: not for an array, each row of which is a run; leave it out",
        ),
        (array(), "rows.npy --weights x", "--weights: not for an array, each row of which is a run; leave it out"),
        (array(), "rows.npy --only x", "params.yaml: tokens.only: no tensor 'x'; known: weights"),
        (braces, "zoo/*", "zoo: runs: Snakemake reads braces as a wildcard; rename zoo/{0}"),
        (table, "zoo/* --facts t.csv", "t.csv: no row for the checkpoint zoo/1/2.pth; add one"),
        (
            table,
            "zoo/1 --facts t.csv",
            "t.csv: line 2: 'zoo/0/1.pth' is in no run of zoo.runs; correct or remove the row",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, write: Callable[[], None], words: str, line: str) -> None:
    write()
    assert fault(capsys, "--checkpoints", *words.split(" ")) == line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mini", "params.yaml: experiments.mini is there already; choose another name"),
        ("My Zoo", "My Zoo: a name has small letters, digits, - and _ only"),
        ("../up", "../up: a name has small letters, digits, - and _ only"),
    ],
)
def test_bad_names(capsys, name: str, line: str) -> None:
    write_runs()
    with pytest.raises(SystemExit):
        main(["init", name, "--checkpoints", "zoo/*"])
    assert capsys.readouterr().err == f"rpg: error: {line}\n"


def test_an_array_is_undone_if_params_cannot_take_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    array()()
    before = Path("params.yaml").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(command, "add_experiment", full)
    with pytest.raises(OSError, match="no space left"):
        told("rows.npy")
    assert Path("params.yaml").read_bytes() == before
    assert not Path("zoos").exists()


def test_the_user_s_own_files_are_never_replaced_or_removed() -> None:
    write_runs("zoos/new/{}/{}.pth")
    Path("zoos/new/0/params.json").write_text('{"rate": 1}')
    Path("zoos/new/1/params.json").write_text('{"rate": 2}')
    with pytest.raises(UserError) as error:
        told("zoos/new/*")
    assert str(error.value) == "zoos/new: is there already; move it, or choose another name"
    assert len(list(Path("zoos").rglob("*.pth"))) == 4


def test_a_reader_that_stops_early_leaves_nothing() -> None:
    """As `rpg init ... | head -1` does."""
    array()()
    before = Path("params.yaml").read_bytes()
    lines = init(InitRequest("new", ["rows.npy"]))
    assert next(lines) == "rows.npy: 3 networks of 4 weights, a file each in zoos/new"
    assert len(list(Path("zoos/new").iterdir())) == 3
    lines.close()
    assert not Path("zoos").exists()
    assert Path("params.yaml").read_bytes() == before
