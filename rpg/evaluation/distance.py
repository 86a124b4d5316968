"""The distance of a network from the zoo: the score of networks that no function scores."""

from pathlib import Path

import numpy as np

from rpg.evaluation.geometry import Space, ZooPoints, mapped
from rpg.evaluation.symmetries import find_space
from rpg.tasks.base import Task
from rpg.tasks.stack import StateDict
from rpg.tokenizer.store import TokenStore


def zoo_points(store: TokenStore, space: Space, scratch: Path | None) -> ZooPoints:
    """Return the checkpoints that RPG learned from as points of `space`, which lie in files in the folder `scratch`."""
    checkpoints = store.checkpoints
    return ZooPoints(
        space,
        # Points lie in files, so that memory does not grow with the number of networks.
        mapped((space.point(store[index]) for index in range(len(checkpoints))), scratch),
        np.array([store.state(entry) for entry in checkpoints]),
        np.array([entry.code or "" for entry in checkpoints]),
        scratch,
    )


class ZooDistance:
    """Measures networks against the checkpoints that RPG learned from."""

    def __init__(self, store: TokenStore, points: ZooPoints) -> None:
        self.store, self.points = store, points

    @property
    def weights(self) -> int:
        """The number of a network's weights that RPG generates."""
        return self.store.layout.weights

    def distance(self, state_dict: StateDict) -> float:
        """Return a network's distance to the nearest checkpoint, as `ZooPoints.distances` measures it.

        It is 0 for a checkpoint, and 1 is the standard deviation of a tensor's weights. Raises UserError if the tensors
        are not those of the checkpoints.
        """
        self.store.layout.check(state_dict, "the network", "it has no distance from the zoo")
        point_P = self.points.space.point(self.store.tokenize(state_dict, 0))
        return float(self.points.distances(point_P).min())


def refer_to_zoo(task: Task, tokens: Path, scratch: Path | None) -> None:
    """Give a task without a score the zoo in the folder `tokens`; points lie in the folder `scratch`, or in memory."""
    store = TokenStore(tokens)
    space = find_space(task, store.layout, store.stats)
    task.refer(ZooDistance(store, zoo_points(store, space, scratch)))
