"""One RPG for several architectures."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rpg.config.loading import load_params
from rpg.joint.model import JointRPG, Places
from rpg.joint.train import JointTraining
from rpg.tokenizer.layout import Layout
from rpg.utils.errors import UserError


@pytest.fixture
def training(joined: Path) -> JointTraining:
    return JointTraining(load_params(joined / "params.yaml"), "both", 0, joined / "results")


@pytest.fixture
def model(training: JointTraining) -> JointRPG:
    return training.build().eval()


def layout(*shapes: tuple[int, ...], width: int = 8) -> Layout:
    return Layout.of({f"{k}.weight": torch.zeros(shape) for k, shape in enumerate(shapes)}, width)


def test_members_share_all_weights(model: JointRPG) -> None:
    own = [{id(parameter) for parameter in member.parameters()} for member in model.members]
    assert own[0] == own[1] == {id(parameter) for parameter in model.parameters()}
    assert model.members[0].length != model.members[1].length


def test_the_state_dict_restores_every_member(training: JointTraining, model: JointRPG) -> None:
    torch.manual_seed(1)
    other = training.build().eval()
    values = {"permutation_state": torch.tensor([[1.0, 0.0]])}
    before = [member.recurrent(values) for member in other.members]
    other.load_state_dict(model.state_dict())
    for was, member, like in zip(before, other.members, model.members, strict=True):
        assert not torch.equal(member.recurrent(values), was)
        assert torch.equal(member.recurrent(values), like.recurrent(values))


def test_a_members_states_are_a_part_of_all(model: JointRPG, training: JointTraining) -> None:
    """The second member's state 1 is state 3 of the model."""
    asked = model.asked(training.stores[1].layout)

    def prototypes(state: int, states: int, rpg: torch.nn.Module) -> Tensor:
        return rpg.recurrent({"permutation_state": torch.eye(states)[[state]]})

    own = prototypes(1, 2, model.members[1])
    torch.testing.assert_close(prototypes(3, 4, asked), own)
    assert (prototypes(1, 4, asked) - own).abs().max() > 1e-3


def test_a_learned_vector_belongs_to_a_place() -> None:
    """Tokens 0 and 1 of the first tensor, and token 0 of the second, are the same places in both architectures."""
    narrow, wide = layout((16,), (4, 2)), layout((24,), (8, 2))
    places = Places([narrow, wide])
    assert places.tokens(narrow).places_L.tolist() == [0, 1, 2]
    assert places.tokens(wide).places_L.tolist() == [0, 1, 3, 2, 4]
    assert places.tokens(wide).learned == 5


def test_a_place_that_was_never_trained_is_refused() -> None:
    places = Places([layout((16,)), layout((24,))])
    assert places.tokens(layout((20,))).places_L.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="a token that no trained architecture has"):
        places.tokens(layout((32,)))


def test_moving_the_model_moves_the_positions_of_every_member(model: JointRPG) -> None:
    model.double()
    assert {member.recurrent.positions.dtype for member in model.members} == {torch.float64}
