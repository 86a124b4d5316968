from pathlib import Path

import pytest
import torch

from rpg.conditions import asked, of_checkpoints, sizes
from rpg.errors import UserError
from rpg.params import PermutationStateCondition, TaskCodeCondition, VectorCondition
from rpg.tokens import TokenStore

STATE, CODE = (
    PermutationStateCondition(kind="permutation_state", per_token=False),
    TaskCodeCondition(kind="task_code", hidden=None, per_token=False),
)
ACCURACY = VectorCondition(kind="vector", field="validation_top1", hidden=None, per_token=False)


@pytest.fixture
def store(tasks: Path) -> TokenStore:
    return TokenStore(tasks / "results/tasks/tokens")


def test_values_of_checkpoints(store: TokenStore) -> None:
    values = of_checkpoints([STATE, CODE, ACCURACY], store)
    assert sizes(values, store) == {"permutation_state": 2, "task_code": 10, "validation_top1": 1}
    for row, entry in enumerate(store.checkpoints):
        assert values["permutation_state"][row].tolist() == [entry["seed"]]
        assert "".join(str(int(bit)) for bit in values["task_code"][row]) == entry["code"]
        assert values["validation_top1"][row].item() == pytest.approx(entry["validation_top1"])


def test_field_that_is_no_number(store: TokenStore) -> None:
    with pytest.raises(UserError, match=r"has no number 'nothing'; known: .*validation_top1"):
        of_checkpoints([VectorCondition(kind="vector", field="nothing", hidden=None, per_token=False)], store)


def test_wish_is_met_and_the_rest_is_that_of_one_checkpoint(store: TokenStore) -> None:
    draws = [torch.Generator().manual_seed(seed) for seed in range(3)]
    wishes = [(1, "0100111010"), (None, "0100111010"), (0, None)]
    values = asked([STATE, CODE, ACCURACY], store, wishes, draws)
    assert values["permutation_state"][0].item() == 1
    assert values["permutation_state"][2].item() == 0
    assert [values["task_code"][row].int().tolist() for row in (0, 1)] == [[0, 1, 0, 0, 1, 1, 1, 0, 1, 0]] * 2
    known = of_checkpoints([CODE, ACCURACY], store)
    rows = [torch.cat([known["task_code"][row], known["validation_top1"][row]]).tolist() for row in range(len(store))]
    assert torch.cat([values["task_code"][2], values["validation_top1"][2]]).tolist() in rows


def test_vector_that_is_wished_for(store: TokenStore) -> None:
    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    values = asked([STATE, ACCURACY], store, [(0, None), (1, None)], draws, {"validation_top1": [98.5]})
    assert values["validation_top1"].tolist() == [[98.5], [98.5]]
    assert values["permutation_state"].tolist() == [[0], [1]]
    with pytest.raises(UserError, match="--vector validation_top1: must have 1 numbers, not 2"):
        asked([STATE, ACCURACY], store, [(0, None)], draws[:1], {"validation_top1": [98.5, 1.0]})
    with pytest.raises(UserError, match="--vector size: the model has no such vector; known: validation_top1"):
        asked([STATE, ACCURACY], store, [(0, None)], draws[:1], {"size": [1.0]})
    with pytest.raises(UserError, match="known: none"):
        asked([STATE], store, [(0, None)], draws[:1], {"size": [1.0]})


def test_wish_for_what_the_model_does_not_know(store: TokenStore) -> None:
    draw = [torch.Generator()]
    with pytest.raises(UserError, match="not trained on task codes"):
        asked([STATE], store, [(None, "0100111010")], draw)
    with pytest.raises(UserError, match="no permutation states"):
        asked([CODE], store, [(0, None)], draw)
    with pytest.raises(UserError, match="states 0 to 1"):
        asked([STATE], store, [(2, None)], draw)
