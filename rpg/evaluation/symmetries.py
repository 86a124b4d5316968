"""The symmetries of a task's networks, which distances between these networks leave out."""

from rpg.evaluation.alignment import find_groups
from rpg.evaluation.geometry import Space
from rpg.evaluation.results import Symmetries
from rpg.evaluation.scale_walk import find_scaling
from rpg.tasks.base import Task
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats

ADAPTER = "the base network is fixed, so an adapter has no units to permute or rescale"
NO_EXAMPLE = "the task gives no example inputs, so its network cannot be followed"
NOT_FOLLOWED = "the network cannot be followed"


def find_space(task: Task, layout: Layout, stats: Stats) -> Space:
    """Return the space of a task's networks, with all symmetries that its network is found to have."""
    example = task.example
    if example is None:
        return Space(layout, [], stats=stats)
    groups = find_groups(task.network, example, task.forward)
    return Space(layout, groups, find_scaling(task.network, example, task.forward), stats)


def list_symmetries(space: Space, task: Task) -> Symmetries:
    """Return the numbers of symmetries that distances leave out, and the reason if there are no groups of units."""
    reason = ""
    if not space.groups and not space.scaling:
        reason = ADAPTER if space.pairs else NO_EXAMPLE if task.example is None else NOT_FOLLOWED
    return Symmetries(
        permutations=len(space.groups), scales=len(space.scaling.groups), low_rank=len(space.pairs), reason=reason
    )
