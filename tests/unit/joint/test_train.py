"""The training of one RPG on the tokens of several experiments."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rpg.config.loading import load_params
from rpg.joint.train import JointTraining
from rpg.utils.errors import UserError
from rpg.utils.files import read_json


def training_in(folder: Path, seed: int = 0) -> JointTraining:
    return JointTraining(load_params(folder / "params.yaml"), "both", seed, folder / "results")


def test_each_stage_writes_its_model_and_its_seconds(joined: Path) -> None:
    training = training_in(joined)
    assert training.stages == ["train", "tune"]
    for stage, steps in (("train", 20), ("tune", 10)):
        assert read_json(training.seconds(stage), "rpg joint")["steps"] == steps
        assert len((training.folder(stage) / "log.csv").read_text().splitlines()) == 1 + steps // 10


def test_the_trained_model_is_that_of_the_last_stage(joined: Path) -> None:
    model, other = training_in(joined).load(), training_in(joined, seed=1).load()
    values = {"permutation_state": torch.eye(2)}

    def prototypes(model: object, index: int) -> Tensor:
        return model.members[index].recurrent(values)  # type: ignore[attr-defined]

    assert [prototypes(model, index).shape[1] for index in range(2)] == [member.length for member in model.members]
    assert not torch.equal(prototypes(model, 0), prototypes(other, 0))


def test_training_lowers_the_loss_of_every_member(joined: Path) -> None:
    """Against the untrained model, on the same draws."""
    training = training_in(joined)
    torch.manual_seed(0)
    fresh, trained = training.build(), training.load()
    loss = training._train_loss(torch.device("cpu"))
    for seed in range(4):
        drawn = loss.draw(torch.Generator().manual_seed(seed))
        with torch.no_grad():
            assert loss.compute(trained, drawn) < 0.98 * loss.compute(fresh, drawn)  # type: ignore[arg-type]


def test_tokens_of_another_zoo_are_refused(joined: Path) -> None:
    training = training_in(joined)
    training.stores[0].sha256 = "0"
    with pytest.raises(UserError, match="trained on tokens of other zoos; run `rpg joint --experiment both` again"):
        training.load()
