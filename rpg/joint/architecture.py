"""One architecture of a trained joint RPG: its RPG, tokenizer, states and task."""

from dataclasses import dataclass

import torch

from rpg.joint.family import family_tokenizer
from rpg.joint.model import STATES, JointRPG
from rpg.joint.train import JointTraining
from rpg.model.rpg import RPG
from rpg.paths import paths_of
from rpg.tasks.loading import load_task
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.training.conditions import ConditionTable
from rpg.utils.artifacts import Seconds
from rpg.utils.files import read_json


@dataclass(eq=False)
class Architecture:
    """The parts of the joint RPG that make the networks of one experiment, as for an RPG of its own."""

    model: RPG
    table: ConditionTable
    tokenizer: Tokenizer


def architecture_of(training: JointTraining, model: JointRPG, experiment: str) -> Architecture:
    """Return the architecture of an experiment, a member or one that was not trained.

    A member's networks have the states of its own zoo, those of an architecture that was not trained the states of all
    members, in their order. Raises UserError if its tensors are not those of the members.
    """
    joint, conditions = training.joint, training.recipe.model.conditions
    if experiment in joint.members:
        index = joint.members.index(experiment)
        store = training.stores[index]
        return Architecture(model.members[index], ConditionTable.of(conditions, store), store)
    asked = training.params.experiment(experiment)
    skeleton = load_task(asked.task, None).skeleton(None)
    layout = Layout.of(skeleton, asked.tokens.width, by_channel=bool(asked.tokens.by_channel))
    tokenizer = family_tokenizer(layout, training.stores, model.states)
    table = ConditionTable(conditions, {STATES: torch.eye(model.states)})
    return Architecture(model.asked(layout).eval(), table, tokenizer)


def own_seconds(training: JointTraining, experiment: str) -> dict[str, float]:
    """Return stage → seconds of the training of an experiment's own generator; UserError if it was not trained."""
    paths = paths_of(training.params, experiment, training.results)
    stages = ["train", *(["tune"] if training.params.experiment(experiment).tune else [])]
    return {
        stage: read_json(paths.file(f"{stage}.seconds"), f"rpg {stage} --experiment {experiment}", Seconds).seconds
        for stage in stages
    }
