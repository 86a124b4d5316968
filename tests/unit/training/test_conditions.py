from pathlib import Path

import pytest
import torch

from rpg.config.model import (
    PermutationStateCondition,
    TaskCodeCondition,
    VectorCondition,
)
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import (
    ConditionTable,
    checkpoint_values,
    drop_states,
    drop_vectors,
    mix_states,
)
from rpg.utils.errors import UserError

STATE, CODE = (
    PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0),
    TaskCodeCondition(kind="task_code", hidden=None, reach="all"),
)
ACCURACY = VectorCondition(kind="vector", field="validation_top1", hidden=None, reach="all")


@pytest.fixture
def store(tasks: Path) -> TokenStore:
    return TokenStore(tasks / "results/tasks/tokens")


def test_values_of_checkpoints(store: TokenStore) -> None:
    values = checkpoint_values([STATE, CODE, ACCURACY], store)
    assert {name: value.shape[1] for name, value in values.items()} == {
        "permutation_state": 2, "task_code": 10, "validation_top1": 1
    }  # fmt: skip
    for row, entry in enumerate(store.checkpoints):
        assert values["permutation_state"][row].tolist() == [entry.seed == 0, entry.seed == 1]
        assert "".join(str(int(bit)) for bit in values["task_code"][row]) == entry.code
        assert values["validation_top1"][row].item() == pytest.approx(entry.tree()["validation_top1"])


def test_field_that_is_no_number(store: TokenStore) -> None:
    with pytest.raises(UserError, match=r"has no number 'nothing'; known: .*validation_top1"):
        checkpoint_values([VectorCondition(kind="vector", field="nothing", hidden=None, reach="all")], store)


def test_wish_is_met_and_the_rest_is_that_of_one_checkpoint(store: TokenStore) -> None:
    draws = [torch.Generator().manual_seed(seed) for seed in range(3)]
    requests = [((1,), "0100111010"), (None, "0100111010"), ((0,), None)]
    values = ConditionTable.of([STATE, CODE, ACCURACY], store).requested(requests, draws)
    assert values["permutation_state"][0].tolist() == [0, 1]
    assert values["permutation_state"][2].tolist() == [1, 0]
    assert [values["task_code"][row].int().tolist() for row in (0, 1)] == [[0, 1, 0, 0, 1, 1, 1, 0, 1, 0]] * 2
    known = checkpoint_values([CODE, ACCURACY], store)
    rows = [torch.cat([known["task_code"][row], known["validation_top1"][row]]).tolist() for row in range(len(store))]
    assert torch.cat([values["task_code"][2], values["validation_top1"][2]]).tolist() in rows


def test_vector_that_is_wished_for(store: TokenStore) -> None:
    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    values = ConditionTable.of([STATE, ACCURACY], store).requested(
        [((0,), None), ((1,), None)], draws, {"validation_top1": [98.5]}
    )
    assert values["validation_top1"].tolist() == [[98.5], [98.5]]
    assert values["permutation_state"].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(UserError, match="--vector validation_top1: must have 1 numbers, not 2"):
        ConditionTable.of([STATE, ACCURACY], store).requested(
            [((0,), None)], draws[:1], {"validation_top1": [98.5, 1.0]}
        )
    with pytest.raises(UserError, match="--vector size: the model has no such vector; known: validation_top1"):
        ConditionTable.of([STATE, ACCURACY], store).requested([((0,), None)], draws[:1], {"size": [1.0]})
    with pytest.raises(UserError, match="known: none"):
        ConditionTable.of([STATE], store).requested([((0,), None)], draws[:1], {"size": [1.0]})


def test_vectors_that_are_omitted_are_those_of_the_state(store: TokenStore) -> None:
    own = checkpoint_values([ACCURACY], store)["validation_top1"].flatten().tolist()
    table = ConditionTable.of([STATE, ACCURACY], store)
    draws = [torch.Generator().manual_seed(seed) for seed in range(20)]
    for state in (0, 1):
        found = table.requested([((state,), None)] * 20, draws)["validation_top1"].flatten().tolist()
        allowed = {value for value, entry in zip(own, store.checkpoints, strict=True) if store.state(entry) == state}
        assert set(found) <= allowed
        assert len(set(found)) > 1


def test_wish_for_what_the_model_does_not_know(store: TokenStore) -> None:
    draw = [torch.Generator()]
    with pytest.raises(UserError, match="not trained on task codes"):
        ConditionTable.of([STATE], store).requested([(None, "0100111010")], draw)
    with pytest.raises(UserError, match="no permutation states"):
        ConditionTable.of([CODE], store).requested([((0,), None)], draw)
    with pytest.raises(UserError, match="states 0 to 1"):
        ConditionTable.of([STATE], store).requested([((2,), None)], draw)
    with pytest.raises(UserError, match="one is given twice; give each state once"):
        ConditionTable.of([STATE], store).requested([((1, 1), None)], draw)


def test_states_that_are_mixed(store: TokenStore) -> None:
    values = ConditionTable.of([STATE], store).requested([((0, 1), None)], [torch.Generator()])
    assert values["permutation_state"].tolist() == [[0.5, 0.5]]


def test_between_two_states() -> None:
    states = torch.eye(4)[[0, 1, 2, 3] * 50]
    mixed = mix_states({"permutation_state": states}, torch.Generator().manual_seed(0))["permutation_state"]
    torch.testing.assert_close(mixed.sum(1), torch.ones(200))
    assert ((mixed > 0).sum(1) == 2).all()
    own = (mixed * states).sum(1)
    # The own share is uniform on 0 to 1; mean 0.5, standard error 0.02.
    assert own.mean().item() == pytest.approx(0.5, abs=0.07)
    others = ((mixed - own[:, None] * states) > 0).long().argmax(1)
    assert torch.bincount(others).min() > 30


def test_state_that_is_not_told() -> None:
    states = torch.eye(4)[[0, 1, 2, 3] * 50]
    half = STATE.model_copy(update={"dropout": 0.25})
    values = {"permutation_state": states, "x": torch.zeros(200, 1)}
    kept = drop_states([half], values, torch.Generator().manual_seed(0))["permutation_state"]
    hidden = (kept == 0.25).all(1)
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.1)
    assert torch.equal(kept[~hidden], states[~hidden])
    draw = torch.Generator().manual_seed(0)
    assert drop_states([STATE], values, draw) is values
    # Without dropout nothing is drawn.
    assert torch.equal(draw.get_state(), torch.Generator().manual_seed(0).get_state())


def optional(field: str, dropout: float) -> VectorCondition:
    return VectorCondition(kind="vector", field=field, hidden=None, reach="all", dropout=dropout)


def test_dropped_vectors_are_unknown_and_one_stays() -> None:
    conditions = [STATE, optional("x", 0.5), optional("y", 0.25)]
    values = {"permutation_state": torch.ones(4000, 1), "x": torch.ones(4000, 2), "y": torch.ones(4000, 1)}
    found = drop_vectors(conditions, values, torch.Generator().manual_seed(0))
    assert found["permutation_state"] is values["permutation_state"]
    unknown = {name: found[name].isnan().any(1) for name in ("x", "y")}
    assert torch.equal(unknown["x"], found["x"].isnan().all(1))
    assert not (unknown["x"] & unknown["y"]).any()
    # A vector is droppable in half of the networks, where the other one stays.
    assert unknown["x"].float().mean() == pytest.approx(0.25, abs=0.03)
    assert unknown["y"].float().mean() == pytest.approx(0.125, abs=0.03)
    assert drop_vectors([STATE, ACCURACY], values, torch.Generator()) is values


def test_a_request_for_one_vector_leaves_optional_ones_unknown(store: TokenStore) -> None:
    named = VectorCondition(
        kind="vector", field="validation_top1", name="accuracy", hidden=None, reach="all", dropout=0.5
    )
    table = ConditionTable.of([STATE, named, optional("step", 0.5)], store)
    values = table.requested([((0,), None)], [torch.Generator().manual_seed(0)], {"accuracy": [80.0]})
    assert values["accuracy"].tolist() == [[80.0]]
    assert values["step"].isnan().all()
    drawn = table.requested([((0,), None)], [torch.Generator().manual_seed(0)])
    assert not drawn["step"].isnan().any()
