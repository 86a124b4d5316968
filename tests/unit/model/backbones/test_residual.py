"""Which tokens hear of each other and of the conditions, for each mixer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from rpg.config.model import (
    Condition,
    PermutationStateCondition,
    ResidualBackboneConfig,
    TaskCodeCondition,
    VectorCondition,
)
from rpg.model.backbones import ResidualBackbone, TokenPositions
from rpg.model.backbones.mixers import MIXERS
from rpg.model.conditions import KINDS
from rpg.model.embeddings import position_embedding

STATE, CODE = (
    PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0),
    TaskCodeCondition(kind="task_code", hidden=None, reach="all"),
)
PARAMS = ResidualBackboneConfig(
    kind="mamba2", width=8, positions=["2d", "learned"], blocks=1, state_width=4, head_width=8, expand=2
)
HEAD = torch.tensor([False, False, False, True, True])
TOKENS = TokenPositions(torch.tensor([[k, 0] for k in range(5)]), HEAD)
# Of the tokens that the backbone makes prototypes for: it does not depend on their width.
D = 20


def backbone(
    conditions: Sequence[Condition], sizes: Mapping[str, int], tokens: TokenPositions = TOKENS, **keys: Any
) -> ResidualBackbone:
    return ResidualBackbone(PARAMS.model_copy(update=keys), tokens, conditions, sizes, D)


class PerToken(torch.nn.Module):
    """A kind of a caller's own, with a value for each of three tokens."""

    def __init__(self, params: object, values: int, length: int, width: int, normalised: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(values, width))

    def forward(self, values_BC: torch.Tensor) -> torch.Tensor:
        return values_BC[:, :, None] * self.weight


def test_another_kind_is_one_class_and_may_differ_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "vector", PerToken)
    params = VectorCondition(kind="vector", field="x", hidden=None, reach="all")
    model = backbone([params], {"x": 3}, TokenPositions(torch.tensor([[0, 0], [1, 0], [0, 1]]), HEAD[:3]))
    before = model({"x": torch.tensor([[1.0, 2.0, 3.0]])})
    assert before.shape == (1, 3, 8)
    # The model is causal: what only the last token is told reaches only the last prototype.
    after = model({"x": torch.tensor([[1.0, 2.0, 9.0]])})
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_task_code_and_state_reach_every_token() -> None:
    model = backbone([STATE, CODE], {"permutation_state": 2, "task_code": 3})
    zero = {"permutation_state": torch.tensor([[1.0, 0.0]]), "task_code": torch.zeros(1, 3)}
    for name, other in (
        ("permutation_state", torch.tensor([[0.0, 1.0]])),
        ("task_code", torch.tensor([[0.0, 1.0, 0.0]])),
    ):
        moved = (model({**zero, name: other}) - model(zero)).abs().amax(-1)[0]
        assert (moved > 1e-4).all(), name


def moved_by_last_token(kind: str) -> list[bool]:
    """Which of five prototypes change if the condition of the head, the last two tokens, does."""
    torch.manual_seed(0)
    code = CODE.model_copy(update={"reach": "head"})
    model = backbone([code], {"task_code": 2}, kind=kind)
    one, other = (model({"task_code": torch.tensor([bits])}) for bits in ([0.0, 1.0], [1.0, 0.0]))
    return ((one - other).abs().amax(-1)[0] > 1e-6).tolist()


@pytest.mark.parametrize("kind", ["mamba2", "lstm", "mlp"])
def test_all_but_the_transformer_look_back_only(kind: str) -> None:
    assert moved_by_last_token(kind) == [False, False, False, True, True]


def test_transformer_looks_everywhere() -> None:
    assert moved_by_last_token("transformer") == [True] * 5


@pytest.mark.parametrize(("kind", "reached"), [("mamba2", 5), ("lstm", 5), ("transformer", 5), ("mlp", 1)])
def test_how_far_a_token_is_heard(kind: str, reached: int) -> None:
    """The first token's own learned vector reaches all later prototypes, but not where tokens do not meet."""
    torch.manual_seed(0)
    model = backbone([CODE], {"task_code": 2}, kind=kind)
    values = {"task_code": torch.ones(1, 2)}
    before = model(values)
    assert model.tokens is not None
    with torch.no_grad():
        model.tokens[0] += torch.randn(8)
    assert ((model(values) - before).abs().amax(-1)[0] > 1e-6).sum().item() == reached


def test_positions_are_those_that_are_named() -> None:
    def fixed(*positions: str) -> torch.Tensor:
        model = backbone([CODE], {"task_code": 2}, positions=positions)
        assert (model.tokens is not None) is ("learned" in positions)
        return model.positions

    assert torch.equal(fixed(), torch.zeros(5, 8))
    assert torch.equal(fixed("learned"), torch.zeros(5, 8))
    assert torch.equal(fixed("2d"), position_embedding(TOKENS.positions_L2, 8))
    assert torch.equal(fixed("1d"), position_embedding(torch.arange(5).unsqueeze(1), 8))
    torch.testing.assert_close(fixed("1d", "2d"), fixed("1d") + fixed("2d"))
    # One axis has all channels: frequencies 10000^(-2i / 8).
    assert fixed("1d")[3, 2].item() == pytest.approx(math.sin(3 * 10000 ** (-2 / 8)), abs=1e-6)


@pytest.mark.parametrize("kind", MIXERS)
def test_prototypes_have_the_backbone_s_width_and_every_weight_a_gradient(kind: str) -> None:
    torch.manual_seed(0)
    model = backbone([STATE], {"permutation_state": 2}, kind=kind, blocks=2)
    prototypes = model({"permutation_state": torch.eye(2)})
    assert prototypes.shape == (2, 5, 8)
    assert model.prototype_width == 8
    (prototypes * torch.randn(prototypes.shape)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_block_by_hand() -> None:
    """h + mixer(norm(h) · (1 + scale) + shift), shift and scale linear in the condition, then a norm."""
    torch.manual_seed(0)
    model = backbone([STATE], {"permutation_state": 2}, kind="mlp")
    values = {"permutation_state": torch.eye(2)}
    with torch.no_grad():
        condition = model.conditions(values)
        hidden = model.positions + model.tokens + condition
        modulation, mixer = model.blocks[0].modulation, model.blocks[0].mixer
        shift, scale = (condition @ modulation.weight.T + modulation.bias).split(8, dim=-1)
        centred = hidden - hidden.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (1 + scale) + shift
        inner = normed @ mixer[0].weight.T + mixer[0].bias
        hidden = hidden + (inner * inner.sigmoid()) @ mixer[2].weight.T + mixer[2].bias
        expected = torch.nn.functional.layer_norm(hidden, (8,), model.norm.weight, model.norm.bias)
        torch.testing.assert_close(model(values), expected)


def test_descriptors_tell_tokens_apart() -> None:
    """Without positions, tokens of equal descriptors have equal prototypes in an MLP of each token alone."""
    described = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    tokens = TokenPositions(TOKENS.positions_L2, HEAD, described)
    model = backbone([STATE], {"permutation_state": 2}, tokens, kind="mlp", positions=["described"])
    prototypes_LM = model({"permutation_state": torch.tensor([[1.0, 0.0]])})[0]
    distances = torch.cdist(prototypes_LM, prototypes_LM)
    same = torch.cdist(described, described) == 0
    assert distances[same].max() < 1e-5
    assert distances[~same].min() > 1e-2


def test_described_positions_need_descriptors() -> None:
    with pytest.raises(ValueError, match="described needs the descriptors"):
        backbone([STATE], {"permutation_state": 2}, positions=["described"])


def test_tokens_at_one_place_share_their_learned_vector() -> None:
    places = torch.tensor([2, 0, 1, 0, 2])
    tokens = TokenPositions(TOKENS.positions_L2, HEAD, places_L=places, learned=3)
    model = backbone([STATE], {"permutation_state": 2}, tokens, kind="mlp", positions=["learned"])
    assert model.tokens is not None
    assert model.tokens.shape == (3, 8)
    prototypes_LM = model({"permutation_state": torch.tensor([[1.0, 0.0]])})[0]
    torch.testing.assert_close(prototypes_LM[[0, 1]], prototypes_LM[[4, 3]])
    assert (prototypes_LM[0] - prototypes_LM[1]).abs().max() > 1e-2
