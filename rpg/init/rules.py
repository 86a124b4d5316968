"""The rules by which `rpg init` chooses an experiment's numbers. docs/guides/own-zoo.md states them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The preset of params.yaml that the experiment extends.
PRESET = "any-zoo"
# The number of shards among which the runs are divided, so that one core reads each.
SHARDS = 16


def power_of_two(number: float, least: int, most: int) -> int:
    """Return the power of two that is nearest to a number, by ratio, from `least` to `most`."""
    return min(most, max(least, 2 ** round(math.log2(max(number, 1)))))


def token_width(weights: int) -> int:
    """Return D: near the root of the number of generated weights, so that tokens are about as many as they are wide."""
    return power_of_two(math.sqrt(weights), 16, 16384)


def model_width(width: int, runs: int) -> int:
    """Return the width of the recurrent model: that of the tokens, or near 16 for each run, whichever is more."""
    return power_of_two(max(width, 16 * runs), 64, 256)


def training(weights: int, runs: int) -> dict[str, int]:
    """Return the steps of the training, and the number of checkpoints in a step."""
    steps = 300 + 20 * runs + round(3 * math.sqrt(weights))
    return {"steps": min(steps, 10_000), "batch": 4 if runs <= 12 else 8}


@dataclass(frozen=True)
class ZooFacts:
    """What the rules depend on: the numbers of generated weights and of runs, the names of conditions, and the start.

    `one_start` says that the runs are alike, as those that were fine-tuned from one network.
    """

    weights: int
    runs: int
    vectors: Sequence[str] = ()
    one_start: bool = False


def experiment(
    task: Mapping[str, Any], zoo: Mapping[str, Any], tokens: Mapping[str, Any], facts: ZooFacts
) -> dict[str, Any]:
    """Return the experiment: the user's blocks, and the numbers that the rules choose."""
    width = token_width(facts.weights)
    model: dict[str, Any] = {"backbone": {"width": model_width(width, facts.runs)}}
    if facts.one_start:
        model["start"] = "mean"
    if facts.vectors:
        state = {"kind": "permutation_state", "reach": "all", "dropout": 0.0}
        model["conditions"] = [
            state,
            *({"kind": "vector", "field": name, "hidden": 64, "reach": "all"} for name in facts.vectors),
        ]
    return {
        "extends": PRESET,
        "task": dict(task),
        "zoo": {**zoo, "runs_per_shard": math.ceil(facts.runs / SHARDS)},
        "tokens": {"width": width, **tokens},
        "model": model,
        "train": training(facts.weights, facts.runs),
    }
