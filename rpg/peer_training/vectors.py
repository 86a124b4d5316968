"""A zoo's checkpoints as other generators learn them: points, conditions, and permuted views."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.config.peers import SANEParams
from rpg.evaluation.alignment import permute, random_cycle
from rpg.evaluation.geometry import Space
from rpg.evaluation.symmetries import find_space
from rpg.peers.base import ZooVectors
from rpg.tasks.base import Task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.prompts import Prompts
from rpg.utils.errors import UserError
from rpg.utils.rng import derive


def read_vectors(experiment: Experiment, store: TokenStore, task: Task, prompts: Prompts | None = None) -> ZooVectors:
    """Return the checkpoints that the peer of `experiment` learns from; `prompts` draw their support sets.

    With `align`, the units of each run's checkpoints are matched with those of the first run's last checkpoint. All
    checkpoints of a run move in the same way.
    """
    params = experiment.model.generator
    assert params
    views = params.views if isinstance(params, SANEParams) and params.contrast else 0
    space = Space(store.layout, [])
    if params.align or views:
        if experiment.tokens.only:
            raise UserError(
                "params.yaml: tokens.only: a permutation needs all tensors; set align to false, contrast to 0"
            )
        space = find_space(task, store.layout, store.stats)
        if not space.groups:
            raise UserError(
                "params.yaml: model.generator: no units to permute were found; align and contrast need them"
            )
    points_NP = np.stack([space.point(store[index]) for index in range(len(store))])
    states_N = np.array([store.state(checkpoint) for checkpoint in store.checkpoints])
    if params.align:
        lasts = [np.flatnonzero(states_N == state)[-1] for state in range(len(store.seeds))]
        orders = [space.order(points_NP[last], points_NP[lasts[0]]) for last in lasts]
        for index, state in enumerate(states_N):
            points_NP[index] = points_NP[index][orders[state]]
    table = ConditionTable.of(experiment.model.conditions, store)

    def shown(picks: Sequence[int], draw: torch.Generator) -> Tensor:
        assert prompts
        return prompts.drawn([store.checkpoints[pick].code or "" for pick in picks], 0.0, draw)[1]

    return ZooVectors(
        torch.from_numpy(points_NP),
        torch.cat([values.float() for values in table.values.values()], dim=1),
        torch.from_numpy(states_N),
        random_views(space, views, derive(experiment.train.seed, "views")) if views else None,
        shown if prompts else None,
    )


def random_views(space: Space, count: int, seed: int) -> Tensor:
    """Return indices [1 + V, P]: the identity, and `count` random permutations of a network's units."""
    places_P = np.arange(space.layout.weights)
    rows = [places_P]
    draw = np.random.default_rng(seed)
    for _ in range(count):
        moved = permute(
            space.tensors(places_P), space.groups, [random_cycle(group.units, draw) for group in space.groups]
        )
        rows.append(np.concatenate([moved[tensor.name].ravel() for tensor in space.layout.tokenized]))
    return torch.from_numpy(np.stack(rows))
