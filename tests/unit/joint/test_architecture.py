"""One architecture of a trained joint RPG."""

from pathlib import Path

import pytest
import torch

import rpg
from rpg.cli import main
from rpg.config.loading import load_params
from rpg.joint.architecture import architecture_of, own_seconds
from rpg.joint.train import JointTraining
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, read_tensors


@pytest.fixture
def training(joined: Path) -> JointTraining:
    return JointTraining(load_params(joined / "params.yaml"), "both", 0, joined / "results")


def test_a_member_has_its_own_tokens_and_states(training: JointTraining) -> None:
    made = architecture_of(training, training.load(), "wide")
    assert isinstance(made.tokenizer, TokenStore)
    assert made.tokenizer.sha256 == training.stores[1].sha256
    assert made.table.sizes == {"permutation_state": 2}
    assert made.model.length == made.tokenizer.layout.length


def test_an_unseen_architecture_has_the_states_of_all_members(training: JointTraining) -> None:
    made = architecture_of(training, training.load(), "middle")
    assert made.table.sizes == {"permutation_state": 4}
    shapes = {tensor.name: tensor.shape for tensor in made.tokenizer.layout.tensors}
    own = load_task(training.params.experiment("middle").task, None).network.state_dict()
    assert shapes == {name: tuple(tensor.shape) for name, tensor in own.items()}


def test_own_seconds_are_those_of_training_and_tuning(joined: Path, training: JointTraining) -> None:
    found = own_seconds(training, "narrow")
    files = {stage: joined / f"results/narrow/seconds/{stage}.json" for stage in ("train", "tune")}
    assert found == {stage: read_json(file, "rpg train")["seconds"] for stage, file in files.items()}


@pytest.mark.parametrize("architecture", ["narrow", "middle", "wide"])
def test_a_network_of_each_architecture_is_generated(
    joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    monkeypatch.chdir(joined)
    out = tmp_path / "network.safetensors"
    request = ["--experiment", "both", "--architecture", architecture, "--state", "1", "--out", str(out)]
    main(["generate", *request])
    weights = read_tensors(out)
    task = load_task(load_params().experiment(architecture).task, None)
    assert 0 <= task.score(weights, "validation") <= 100
    made = rpg.generate("both", architecture=architecture, state=1)
    assert all(torch.equal(weights[name], tensor) for name, tensor in made.items())


@pytest.mark.parametrize(
    ("experiment", "architecture", "fault"),
    [
        ("both", None, "both: add --architecture; known: narrow, wide, middle"),
        ("both", "narow", "--architecture narow: both has no such architecture; did you mean 'narrow'?"),
        ("both", "resnet50", "no such architecture; known: middle, narrow, wide"),
        ("narrow", "wide", "narrow makes networks of one architecture; those that take it: both"),
    ],
)
def test_a_wrong_request_names_the_known_architectures(
    joined: Path, experiment: str, architecture: str | None, fault: str
) -> None:
    with pytest.raises(UserError) as refused:
        rpg.generate(experiment, architecture=architecture, root=joined)
    assert fault in str(refused.value)
