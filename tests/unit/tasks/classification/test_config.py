"""Blocks of classification: the networks of a zoo start from their seed."""

import pytest
from conftest import TASKS
from pydantic import ValidationError

from rpg.tasks.classification.config import TaskCodes, TimmNetwork


@pytest.mark.parametrize("arguments", [{"pretrained": True}, {"pretrained_cfg": {}}, {"checkpoint_path": "w.pth"}])
def test_a_network_loads_no_weights(arguments: dict) -> None:
    (name,) = arguments
    with pytest.raises(ValidationError, match=f"arguments: {name} would load weights"):
        TimmNetwork(name="resnet18", arguments=arguments)


@pytest.mark.parametrize("name", ["hf-hub:x/y", "", "a b"])
def test_a_network_is_named_without_a_hub(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        TimmNetwork(name=name, arguments={})


def test_seen_codes_are_drawn_without_the_held_out_ones() -> None:
    task = TaskCodes.model_validate(TASKS["task"])
    seen, held_out = task.seen_codes(), task.held_out_codes()
    complements = {code.translate(str.maketrans("01", "10")) for code in held_out}
    assert len(set(seen)) == 6
    assert not set(seen) & ({*held_out} | complements)
    # More codes are the same ones and others.
    assert task.model_copy(update={"seen": 9}).seen_codes()[:6] == seen
    assert task.classes == tuple(map(str, range(10)))
