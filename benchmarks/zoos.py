"""Compare training a zoo's networks at once and one after another: `python -m benchmarks zoos`.

Both train the same seeds of the same experiment. The seconds are for a part of the training, measured in turns. The
accuracy is over all checkpoints of a whole training, on the validation split.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import in_turn, ratio, report
from benchmarks.training import mean_score
from rpg.config.loading import load_params
from rpg.tasks.base import Task
from rpg.tasks.classification.config import ClassificationZoo
from rpg.tasks.config import Run
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict
from rpg.utils.rng import fix_arithmetic

# The number of timed steps.
PART = 40


def compare_zoos(names: list[str], rounds: int, threads: int, out: Path) -> list[dict[str, Any]]:
    """Print and write the milliseconds per network and step, and the accuracy."""
    fix_arithmetic(threads)
    return report([row for name in names for row in of_experiment(name, rounds)], out, threads=threads)


def of_experiment(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each number of networks at once."""
    params = load_params()
    experiment = params.experiment(name)
    task, zoo = load_task(experiment.task, params.data_root), experiment.zoo
    assert isinstance(zoo, ClassificationZoo)
    (runs,) = list(experiment.shards().values())[:1]
    runs = runs[: zoo.together]
    part = zoo.model_copy(update={"steps": PART, "saves": 1, "save_every": 1})
    ways = {"one after another": 1, f"{len(runs)} at once": len(runs)}
    seconds = in_turn({way: lambda many=many: train(task, part, runs, many) for way, many in ways.items()}, rounds)
    return [
        {
            "experiment": name,
            "networks": way,
            "ms of a network's step": 1000 * statistics.median(taken) / len(runs) / (PART + 1),
            **ratio(seconds["one after another"], taken),
            "accuracy": mean_score(task, train(task, zoo, runs, ways[way])),
        }
        for way, taken in seconds.items()
    ]


def train(task: Task, zoo: ClassificationZoo, runs: Sequence[Run], together: int) -> list[StateDict]:
    """Train the runs, `together` at once, and return their checkpoints."""
    checkpoints: list[StateDict] = []
    for first in range(0, len(runs), together):
        group = runs[first : first + together]
        task.train(zoo, group, [None] * len(group), lambda _, state_dicts: checkpoints.extend(state_dicts))
    return checkpoints
