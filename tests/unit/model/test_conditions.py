import pytest
import torch

from rpg.config.model import (
    LastTokens,
    PermutationStateCondition,
    TaskCodeCondition,
    UnconditionalCondition,
    VectorCondition,
)
from rpg.model.conditions import (
    Conditions,
    PermutationState,
    Vector,
    condition_name,
)

STATE, CODE = (
    PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0),
    TaskCodeCondition(kind="task_code", hidden=None, reach="all"),
)
HEAD = torch.tensor([False, False, False, True, True])


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
    normalized = Vector(params, values=2, length=3, width=6, normalized=True)(values)[:, 0]
    torch.testing.assert_close(normalized.mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalized.std(1, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_vectors_are_standardized_by_the_zoo() -> None:
    """90 % and 97 % of a zoo from 20 % to 97 % must be different inputs; a constant number must not divide by zero."""
    params = VectorCondition(kind="vector", field="x", hidden=None, reach="all")
    vector = Vector(params, values=2, length=3, width=6)
    zoo = torch.tensor([[20.0, 7.0], [60.0, 7.0], [97.0, 7.0], [91.0, 7.0]])
    vector.standardize(zoo)
    assert vector.mean.tolist() == [67.0, 7.0]
    # The squared distances from 67 are 2209, 49, 900 and 576; their mean is 933.5.
    torch.testing.assert_close(vector.std, torch.tensor([933.5**0.5, 1.0]))
    linear = vector.layers
    torch.testing.assert_close(vector(torch.tensor([[67.0, 7.0]]))[0, 0], linear.bias)
    one_deviation = vector(torch.tensor([[67.0 + 933.5**0.5, 7.0]]))[0, 0]
    torch.testing.assert_close(one_deviation, linear.bias + linear.weight[:, 0])
    assert {"mean", "std"} <= vector.state_dict().keys()


@pytest.mark.parametrize("hidden", [None, 5])
def test_each_token_its_own_vector(hidden: int | None) -> None:
    """Per token is what as many conditions as there are tokens would give, one after another."""
    params = VectorCondition(kind="vector", field="x", hidden=hidden, reach="each")
    vector = Vector(params, values=2, length=3, width=6, normalized=True)
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


def test_condition_of_the_head_alone() -> None:
    conditions = Conditions([CODE.model_copy(update={"reach": "head"})], {"task_code": 2}, HEAD, width=4)
    code = torch.tensor([[1.0, 0.0]])
    found = conditions({"task_code": code})
    linear = conditions.kinds["task_code"].layers
    assert torch.equal(found[0, :3], torch.zeros(3, 4))
    torch.testing.assert_close(found[0, 3:], (linear.weight[:, 0] + linear.bias).expand(2, 4))


def test_condition_of_the_last_tokens_alone() -> None:
    code = CODE.model_copy(update={"reach": LastTokens(last=2), "hidden": 6})
    conditions = Conditions([STATE, code], {"permutation_state": 3, "task_code": 2}, HEAD, width=4)
    values = {"permutation_state": torch.eye(3)[:1], "task_code": torch.tensor([[1.0, 0.0]])}
    state = conditions.kinds["permutation_state"].embedding.weight[0]
    layers = conditions.kinds["task_code"].layers
    found = conditions(values)[0]
    assert torch.equal(found[:3], state.expand(3, 4))
    torch.testing.assert_close(found[3:], (state + layers(values["task_code"])).expand(2, 4))
    assert conditions.tokens("permutation_state") is None
    assert conditions.tokens("task_code").flatten().tolist() == [False, False, False, True, True]
    # The mask is no weight, and it reaches all tokens of a shorter network.
    assert not any(name.startswith("tokens_") for name in conditions.state_dict())
    short = Conditions([code], {"task_code": 2}, HEAD[-1:], width=4)
    torch.testing.assert_close(
        short({"task_code": values["task_code"]})[0], short.kinds["task_code"].layers(values["task_code"])
    )


def test_unconditional_is_one_vector_whatever_is_asked() -> None:
    conditions = Conditions([UnconditionalCondition(kind="unconditional")], {"unconditional": 1}, HEAD, width=4)
    found = conditions({"unconditional": torch.tensor([[0.0], [7.0]])})
    assert found.shape == (2, 1, 4)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0, 0], conditions.kinds["unconditional"].vector)


def test_names_that_torch_refuses_for_modules() -> None:
    """A hyperparameter may be called optimizer.rate or type."""
    fields = ["optimizer.rate", "type", "training", "lr"]
    entries = [VectorCondition(kind="vector", field=field, hidden=None, reach="head") for field in fields]
    conditions = Conditions(entries, dict.fromkeys(fields, 1), HEAD, width=4)
    assert list(conditions.kinds) == ["optimizer/rate", "type/", "training/", "lr"]
    assert [name for name, _ in conditions.named()] == fields
    values = {field: torch.tensor([[float(place)]]) for place, field in enumerate(fields)}
    expected = sum(module(values[name]) for name, module in conditions.named()) * HEAD[:, None]
    torch.testing.assert_close(conditions(values), expected)
    with pytest.raises(ValueError, match=r"the model was trained with \['lr', 'optimizer.rate', 'training', 'type'\]"):
        conditions({})


def test_unknown_numbers_have_one_learned_vector() -> None:
    params = VectorCondition(kind="vector", field="x", name="y", hidden=None, reach="all", dropout=0.5)
    assert condition_name(params) == "y"
    vector = Vector(params, values=2, length=3, width=6)
    torch.nn.init.normal_(vector.unknown)
    values = torch.tensor([[1.0, 2.0], [torch.nan, torch.nan], [3.0, torch.nan]])
    found = vector(values)
    linear = vector.layers
    torch.testing.assert_close(found[0, 0], values[0] @ linear.weight.T + linear.bias)
    assert torch.equal(found[1:], vector.unknown.expand(2, 1, 6))
    found.sum().backward()
    assert torch.equal(vector.unknown.grad, torch.full((6,), 2.0))
    # The gradient of a network with unknown numbers does not reach the linear layer, and is no NaN.
    torch.testing.assert_close(linear.weight.grad, values[0].expand(6, 2))
