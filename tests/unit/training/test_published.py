"""The published weights in place of a training: `rpg import`."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import MINIATURE, PAPER, new_model, published, run_layers, write_tree
from safetensors.torch import load_file, save_file
from torch import Tensor

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.model.rpg import RPG
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import build, load_rpg, read_config
from rpg.training.published import load_published
from rpg.utils.files import read_sealed
from rpg.utils.rng import generator


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch) -> Path:
    """A working directory with the miniature's zoo and tokens, and the published architecture for them."""
    shutil.copytree(finished / "results/mini/zoo", tmp_path / "results/mini/zoo")
    shutil.copytree(finished / "results/mini/tokens", tmp_path / "results/mini/tokens")
    change(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(folder: Path, **blocks: dict) -> None:
    write_tree(folder, mini={**MINIATURE, "model": PAPER, "diffusion": {"target": "epsilon"}, **blocks})


def imported(weights: Path | str) -> None:
    main(["import", "--experiment", "mini", "--weights", str(weights)])


def fault(tree: dict[str, Tensor], capsys) -> str:
    """The one line that importing `tree` leads to; nothing is written."""
    torch.save(tree, "w.pth")
    with pytest.raises(SystemExit) as left:
        imported("w.pth")
    assert left.value.code == 2
    assert not Path("results/mini/rpg").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rpg: error: ")


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_imported_weights_sample_what_the_model_built_directly_does(here: Path, suffix: str) -> None:
    direct = new_model(here)
    tree, path = published(direct), here / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(tree, path)
    else:
        torch.save(tree, path)
    imported(path)
    folder, store = here / "results/mini/rpg", TokenStore(here / "results/mini/tokens")
    assert (folder / "log.csv").read_text() == "step,loss,learning_rate\n"
    assert read_sealed(here / "results/mini/seconds/train.json", "rpg import") == {"seconds": 0.0, "steps": 0}
    # What `rpg train` writes beside it, and no more.
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "log.csv", "model.safetensors"]
    assert [entry.file for entry in read_config(folder).files] == ["log.csv", "model.safetensors"]
    loaded = load_rpg(folder, store, torch.device("cpu"))
    values = {"permutation_state": torch.eye(3)}
    found, expected = (
        each.sample(values, solver="ddim", steps=3, generators=[generator(0, "t", k) for k in range(3)])
        for each in (loaded, direct)
    )
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected)
    run_layers(here, "sample", "score")
    main(["generate", "--experiment", "mini", "--state", "2", "--out", "g.safetensors"])
    assert load_file("g.safetensors").keys() == load_file("results/mini/samples/0002.safetensors").keys()


def test_imported_weights_are_taken_for_those_of_a_training(here: Path) -> None:
    """Also where a training was killed half way, and where older samples stand."""
    (here / "results/mini/rpg/state").mkdir(parents=True)
    (here / "results/mini/rpg/state/state.safetensors").write_bytes(b"of a killed training")
    torch.save(published(new_model(here)), "w.pth")
    imported("w.pth")
    assert not (here / "results/mini/rpg/state").exists()
    first = (here / "results/mini/rpg/model.safetensors").read_bytes()
    imported("w.pth")
    assert (here / "results/mini/rpg/model.safetensors").read_bytes() == first


def test_the_first_tensor_that_does_not_fit_is_named_with_both_shapes(here: Path, capsys) -> None:
    tree = published(new_model(here))
    wide = {**tree, "criteria.net.condi_embedder.weight": torch.zeros(128, 128)}
    assert fault(wide, capsys) == (
        "w.pth: tensor 'criteria.net.condi_embedder.weight' has shape [128, 128], in the experiment's model [64, 64]"
    )
    length = TokenStore(here / "results/mini/tokens").layout.length
    assert fault({**tree, "model.pe": torch.zeros(1, length + 2, 32)}, capsys) == (
        f"w.pth: tensor 'model.pe' has shape [{length + 2}, 32], in the experiment's model [{length}, 32]"
    )
    lacking = {name: tensor for name, tensor in tree.items() if not name.endswith("mamba_forward.1.dt_bias")}
    assert "has no tensor for 'recurrent.blocks.1.dt_bias' [8]" in fault(lacking, capsys)
    assert "'model.mamba_forward.2.D' has no place" in fault({**tree, "model.mamba_forward.2.D": torch.ones(8)}, capsys)
    coded = {**tree, "to_condition.weight": torch.zeros(32, 10)}
    assert "'to_condition.weight' has no place in the experiment's model; see model.conditions" in fault(coded, capsys)
    assert "'other.weight' has no counterpart" in fault({**tree, "other.weight": torch.ones(8)}, capsys)
    assert "'to_permutation_state.weight' holds NaN" in fault(
        {**tree, "to_permutation_state.weight": torch.full((3, 32), torch.nan)}, capsys
    )


def test_the_published_number_of_states_must_be_the_zoo_s(here: Path, capsys) -> None:
    line = fault({**published(new_model(here)), "to_permutation_state.weight": torch.zeros(50, 32)}, capsys)
    assert line == (
        "w.pth: has 50 permutation states, one for each checkpoint that it learned from, and the zoo has 3, one for"
        " each run; name the published checkpoints one by one in zoo.runs"
    )


def test_other_faults_are_one_line(here: Path, capsys) -> None:
    tree = published(new_model(here))
    change(here, diffusion={"target": "x0"})
    assert "diffusion.target: must be epsilon" in fault(tree, capsys)
    for part, kind in (("backbone", "paper"), ("denoiser", "convolution")):
        change(here, model={**PAPER, part: MINIATURE["model"][part]})
        line = f"params.yaml: model.{part}.kind: must be {kind}, as the published weights have it"
        assert fault(tree, capsys) == line
    change(here)
    assert fault({"model": tree}, capsys).startswith("w.pth: not a state dict (names to tensors), but model;")
    shutil.rmtree(here / "results/mini/tokens")
    assert "layout.json: missing; make it with `rpg tokens`" in fault(tree, capsys)


def test_a_task_code_that_reaches_the_last_tokens_alone_needs_a_reach_like_it(tasks: Path) -> None:
    """The unseen-task weights: the condition through two layers, gated to the tokens at the end."""
    experiment = load_params(tasks / "params.yaml").experiment("tasks")
    store = TokenStore(tasks / "results/tasks/tokens")

    def made(reach: str | dict[str, int], states: bool = True) -> RPG:
        code = {"kind": "task_code", "hidden": 16, "reach": reach}
        paper = type(experiment).model_validate(
            {
                **experiment.model_dump(),
                "model": {**PAPER, "conditions": [*(PAPER["conditions"] if states else []), code]},
                "diffusion": {"target": "epsilon"},
                "hypernetwork": None,
            }
        )
        torch.manual_seed(2)
        return build(paper.model, paper.diffusion, store).eval()

    head = made("head")
    tree, prefix = published(head), "recurrent.conditions.kinds.task_code.layers"
    del tree["to_condition.weight"], tree["to_condition.bias"]
    tree["to_permutation_state.weight"] += 0.25
    weights, own = tree, head.state_dict()
    for kind in ("weight", "bias"):
        weights[f"get_condition.0.{kind}"] = own[f"{prefix}.0.{kind}"]
        weights[f"to_condition_linear.{kind}"] = own[f"{prefix}.2.{kind}"]
    gate = torch.zeros(1, store.layout.length, 1)
    count = int(store.layout.head().sum())
    gate[:, -count:] = 1
    other = made("head")
    load_published(other, {**weights, "to_condition_gate": gate})
    values = {"permutation_state": torch.eye(2), "task_code": torch.eye(10)[:2]}
    torch.testing.assert_close(other.recurrent(values), head.recurrent(values))
    gate[:, -8:] = 1
    for reach, found in (("head", count), ("all", store.layout.length)):
        with pytest.raises(ValueError, match=rf"reaches 8 of its .* tokens, those at the end, and {found} of"):
            load_published(made(reach), {**weights, "to_condition_gate": gate})
    with pytest.raises(ValueError, match="no `reach` fits these weights"):
        load_published(made("head"), weights)
    # As in cifar10-tasks: the published training has no state, and its rows of states are not used.
    last = made({"last": 8}, states=False)
    load_published(last, {**weights, "to_condition_gate": gate})
    del values["permutation_state"]
    embedded = last.recurrent.conditions(values)
    assert torch.equal(embedded[:, :-8], torch.zeros_like(embedded[:, :-8]))
    torch.testing.assert_close(embedded[:, -1], last.recurrent.conditions.kinds["task_code"](values["task_code"])[:, 0])
    assert torch.equal(last.state_dict()[f"{prefix}.2.bias"], own[f"{prefix}.2.bias"])
