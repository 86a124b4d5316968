"""A trained RPG with all that generation needs."""

from pathlib import Path

import pytest

from rpg.config.model import VectorCondition
from rpg.generator.trained import TrainedRPG
from rpg.training.conditions import ConditionTable

HELD_OUT = "0100111010"


@pytest.fixture
def inside(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tasks)
    return tasks


def test_what_is_left_out_is_drawn_from_the_zoo(inside: Path) -> None:
    generator = TrainedRPG.of_experiment("tasks")
    networks = generator.networks(12, None, None)
    assert {network.states for network in networks} == {(0,), (1,)}
    codes = {network.code for network in networks}
    assert len(codes) > 2
    assert codes <= {checkpoint.code for checkpoint in generator.tokenizer.checkpoints}
    assert {network.code for network in generator.networks(3, HELD_OUT, None)} == {HELD_OUT}
    assert {network.states for network in generator.networks(3, None, (1,))} == {(1,)}
    assert [generator.zoo_membership(code) for code in (HELD_OUT, "1010101010")] == ["held out", "not in the zoo"]


def test_the_vocabulary_has_the_ranges_of_vectors(inside: Path) -> None:
    trained = TrainedRPG.of_experiment("tasks")
    assert trained.vocabulary() == {"permutation_state": 2, "task_code": tuple("0123456789")}
    vector = VectorCondition(kind="vector", field="validation_top1", hidden=None, reach="all")
    trained.table = ConditionTable.of([vector], trained.tokenizer)
    scores = [checkpoint.tree()["validation_top1"] for checkpoint in trained.tokenizer.checkpoints]
    assert trained.vocabulary()["validation_top1"] == [(pytest.approx(min(scores)), pytest.approx(max(scores)))]


def test_weights_are_counted(inside: Path) -> None:
    trained = TrainedRPG.of_experiment("tasks")
    network = trained.networks(1, HELD_OUT, None)[0].state_dict
    counters = sum(tensor.numel() for name, tensor in network.items() if name.endswith("num_batches_tracked"))
    assert trained.weights == sum(tensor.numel() for tensor in network.values()) - counters
