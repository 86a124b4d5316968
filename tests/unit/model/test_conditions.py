import math

import pytest
import torch

from rpg.config.model import (
    PermutationStateCondition,
    TaskCodeCondition,
    UnconditionalCondition,
    VectorCondition,
)
from rpg.model.conditions import (
    KINDS,
    Conditions,
    PermutationState,
    Vector,
    condition_name,
    position_embedding,
    time_embedding,
)
from rpg.model.recurrent import ResidualRecurrent, TokenPositions


def test_position_embedding_by_hand() -> None:
    positions = torch.tensor([[0, 0], [3, 5]])
    embedding = position_embedding(positions, 8)
    f = 10000 ** (-2 / 4)
    expected = [math.sin(3), math.cos(3), math.sin(3 * f), math.cos(3 * f)]
    expected += [math.sin(5), math.cos(5), math.sin(5 * f), math.cos(5 * f)]
    torch.testing.assert_close(embedding[1], torch.tensor(expected))
    torch.testing.assert_close(embedding[0], torch.tensor([0.0, 1.0] * 4))


def test_position_embedding_needs_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        position_embedding(torch.zeros(1, 2), 6)


def test_time_embedding_by_hand() -> None:
    embedding = time_embedding(torch.tensor([0, 7]), 256)
    assert embedding.shape == (2, 256)
    torch.testing.assert_close(embedding[0], torch.tensor([1.0] * 128 + [0.0] * 128))
    k = 100
    angle = 7 * 10000 ** (-k / 128)
    assert embedding[1, k].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert embedding[1, 128 + k].item() == pytest.approx(math.sin(angle), abs=1e-6)


STATE, CODE = (
    PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0),
    TaskCodeCondition(kind="task_code", hidden=None, reach="all"),
)
SIZES = {"width": 8, "blocks": 1, "state_width": 4, "head_width": 8, "expand": 2, "recurrent": "mamba2"}
SIZES |= {"positions": ["2d", "learned"]}
HEAD = torch.tensor([False, False, False, True, True])
TOKENS = TokenPositions(torch.tensor([[k, 0] for k in range(5)]), HEAD)


def test_conditions_are_added_and_all_of_them_must_be_given() -> None:
    conditions = Conditions([STATE, CODE], {"permutation_state": 3, "task_code": 2}, HEAD, width=4)
    state, code = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    table, linear = conditions.kinds["permutation_state"].embedding, conditions.kinds["task_code"].layers
    expected = table.weight[1] + linear.weight[:, 0] + linear.bias
    torch.testing.assert_close(conditions({"permutation_state": state, "task_code": code}), expected[None, None])
    with pytest.raises(ValueError, match="trained with"):
        conditions({"permutation_state": state})
    with pytest.raises(ValueError, match="trained with"):
        Conditions([STATE], {"permutation_state": 3}, HEAD, width=4)({"permutation_state": state, "task_code": code})


def test_vector_by_hand() -> None:
    params = VectorCondition(kind="vector", field="validation_top1", hidden=5, reach="all")
    assert condition_name(params) == "validation_top1"
    vector = Vector(params, values=2, length=3, width=6)
    first, _, second = vector.layers
    values = torch.tensor([[0.3, -2.0], [1.0, 4.0]])
    hidden = values @ first.weight.T + first.bias
    expected = (hidden * hidden.sigmoid()) @ second.weight.T + second.bias
    torch.testing.assert_close(vector(values), expected[:, None])
    normalised = Vector(params, values=2, length=3, width=6, normalised=True)(values)[:, 0]
    torch.testing.assert_close(normalised.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalised.std(1, correction=0), torch.ones(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("hidden", [None, 5])
def test_each_token_its_own_vector(hidden: int | None) -> None:
    """Per token is what as many conditions as there are tokens would give, one after another."""
    params = TaskCodeCondition(kind="task_code", hidden=hidden, reach="each")
    vector = Vector(params, values=2, length=3, width=6, normalised=True)
    values = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    found = vector(values)
    assert found.shape == (2, 3, 6)
    flat = vector.layers(values)
    for token in range(3):
        own = torch.nn.functional.layer_norm(flat[:, 6 * token : 6 * token + 6], (6,))
        torch.testing.assert_close(found[:, token], own)
    assert not torch.allclose(found[:, 0], found[:, 1])

    state = PermutationStateCondition(kind="permutation_state", reach="each", dropout=0.0)
    embedding = PermutationState(state, states=4, length=3, width=6)
    expected = embedding.embedding.weight[3].view(3, 6)
    torch.testing.assert_close(embedding(torch.tensor([[0.0, 0.0, 0.0, 1.0]])), expected[None])
    # Between two states lies the mean of their vectors.
    middle = embedding(torch.tensor([[0.0, 0.5, 0.0, 0.5]]))[0]
    torch.testing.assert_close(middle, embedding.embedding.weight[[1, 3]].mean(0).view(3, 6))


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
    model = ResidualRecurrent(
        TokenPositions(torch.tensor([[0, 0], [1, 0], [0, 1]]), HEAD[:3]), [params], {"x": 3}, **SIZES
    )
    before = model({"x": torch.tensor([[1.0, 2.0, 3.0]])})
    assert before.shape == (1, 3, 8)
    # The model is causal: what only the last token is told reaches only the last prototype.
    after = model({"x": torch.tensor([[1.0, 2.0, 9.0]])})
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_task_code_and_state_reach_every_token() -> None:
    model = ResidualRecurrent(TOKENS, [STATE, CODE], {"permutation_state": 2, "task_code": 3}, **SIZES)
    zero = {"permutation_state": torch.tensor([[1.0, 0.0]]), "task_code": torch.zeros(1, 3)}
    for name, other in (
        ("permutation_state", torch.tensor([[0.0, 1.0]])),
        ("task_code", torch.tensor([[0.0, 1.0, 0.0]])),
    ):
        moved = (model({**zero, name: other}) - model(zero)).abs().amax(-1)[0]
        assert (moved > 1e-4).all(), name


def test_condition_of_the_head_alone() -> None:
    conditions = Conditions([CODE.model_copy(update={"reach": "head"})], {"task_code": 2}, HEAD, width=4)
    code = torch.tensor([[1.0, 0.0]])
    found = conditions({"task_code": code})
    linear = conditions.kinds["task_code"].layers
    assert torch.equal(found[0, :3], torch.zeros(3, 4))
    torch.testing.assert_close(found[0, 3:], (linear.weight[:, 0] + linear.bias).expand(2, 4))


def test_unconditional_is_one_vector_whatever_is_asked() -> None:
    conditions = Conditions([UnconditionalCondition(kind="unconditional")], {"unconditional": 1}, HEAD, width=4)
    found = conditions({"unconditional": torch.tensor([[0.0], [7.0]])})
    assert found.shape == (2, 1, 4)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0, 0], conditions.kinds["unconditional"].vector)


def moved_by_last_token(recurrent: str) -> list[bool]:
    """Which of five prototypes change if the condition of the head, the last two tokens, does."""
    torch.manual_seed(0)
    code = CODE.model_copy(update={"reach": "head"})
    model = ResidualRecurrent(TOKENS, [code], {"task_code": 2}, **{**SIZES, "recurrent": recurrent})
    one, other = (model({"task_code": torch.tensor([bits])}) for bits in ([0.0, 1.0], [1.0, 0.0]))
    return ((one - other).abs().amax(-1)[0] > 1e-6).tolist()


@pytest.mark.parametrize("recurrent", ["mamba2", "lstm", "none"])
def test_what_is_recurrent_looks_back_only(recurrent: str) -> None:
    assert moved_by_last_token(recurrent) == [False, False, False, True, True]


def test_transformer_looks_everywhere() -> None:
    assert moved_by_last_token("transformer") == [True] * 5


@pytest.mark.parametrize(("recurrent", "reached"), [("mamba2", 5), ("lstm", 5), ("transformer", 5), ("none", 1)])
def test_how_far_a_token_is_heard(recurrent: str, reached: int) -> None:
    """The first token's own learned vector reaches all later prototypes, but not where tokens do not meet."""
    torch.manual_seed(0)
    model = ResidualRecurrent(TOKENS, [CODE], {"task_code": 2}, **{**SIZES, "recurrent": recurrent})
    values = {"task_code": torch.ones(1, 2)}
    before = model(values)
    assert model.tokens is not None
    with torch.no_grad():
        model.tokens[0] += torch.randn(8)
    assert ((model(values) - before).abs().amax(-1)[0] > 1e-6).sum().item() == reached


def test_positions_are_those_that_are_named() -> None:
    def fixed(*positions: str) -> torch.Tensor:
        model = ResidualRecurrent(TOKENS, [CODE], {"task_code": 2}, **{**SIZES, "positions": positions})
        assert (model.tokens is not None) is ("learned" in positions)
        return model.positions

    assert torch.equal(fixed(), torch.zeros(5, 8))
    assert torch.equal(fixed("learned"), torch.zeros(5, 8))
    assert torch.equal(fixed("2d"), position_embedding(TOKENS.positions_L2, 8))
    assert torch.equal(fixed("1d"), position_embedding(torch.arange(5).unsqueeze(1), 8))
    torch.testing.assert_close(fixed("1d", "2d"), fixed("1d") + fixed("2d"))
    # One axis has all channels: frequencies 10000^(-2i / 8).
    assert fixed("1d")[3, 2].item() == pytest.approx(math.sin(3 * 10000 ** (-2 / 8)), abs=1e-6)
