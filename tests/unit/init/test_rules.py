"""The numbers that `rpg init` chooses."""

import pytest

from rpg.init.rules import ZooFacts, experiment, model_width, power_of_two, token_width, training


@pytest.mark.parametrize(("number", "nearest"), [(0, 16), (22, 16), (23, 32), (90, 64), (91, 128), (10**9, 256)])
def test_the_nearest_power_of_two_by_ratio(number: float, nearest: int) -> None:
    assert power_of_two(number, 16, 256) == nearest


@pytest.mark.parametrize(
    ("weights", "width"), [(99, 16), (10_000, 128), (1_000_000, 1024), (11_000_000, 4096), (10**10, 16384)]
)
def test_tokens_are_about_as_many_as_they_are_wide(weights: int, width: int) -> None:
    assert token_width(weights) == width


def test_model_and_training_grow_with_the_runs() -> None:
    assert [model_width(16, runs) for runs in (1, 6, 10, 12, 2000)] == [64, 128, 128, 256, 256]
    assert [model_width(width, 1) for width in (64, 256, 4096)] == [64, 256, 256]
    assert [training(*facts) for facts in ((0, 1), (10_000, 12), (10_000, 13), (10_000, 2000))] == [
        {"steps": 320, "batch": 4},
        {"steps": 840, "batch": 4},
        {"steps": 860, "batch": 8},
        {"steps": 10_000, "batch": 8},
    ]


def test_the_experiment_has_the_user_s_blocks_and_the_chosen_numbers() -> None:
    task, zoo = {"kind": "custom"}, {"runs": ["a/*"]}
    assert experiment(task, zoo, {"only": ["head.*"]}, ZooFacts(10_000, 33)) == {
        "extends": "any-zoo",
        "task": task,
        "zoo": {"runs": ["a/*"], "runs_per_shard": 3},
        "tokens": {"width": 128, "only": ["head.*"]},
        "model": {"backbone": {"width": 256}},
        "train": {"steps": 1260, "batch": 8},
    }


def test_facts_become_conditions_and_runs_of_one_start_begin_at_their_mean() -> None:
    found = experiment({}, {}, {}, ZooFacts(99, 2, ["rate", "kind"], True))
    assert found["model"] == {
        "backbone": {"width": 64},
        "start": "mean",
        "conditions": [
            {"kind": "permutation_state", "reach": "all", "dropout": 0.0},
            {"kind": "vector", "field": "rate", "hidden": 64, "reach": "all"},
            {"kind": "vector", "field": "kind", "hidden": 64, "reach": "all"},
        ],
    }
