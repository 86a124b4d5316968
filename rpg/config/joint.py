"""The block of a joint experiment: one RPG for the networks of several experiments."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from rpg.blocks import Block, Seeds
from rpg.config.experiment import Experiment
from rpg.config.model import ResidualBackboneConfig


class JointExperiment(Block):
    """One RPG that learns the zoos of several experiments, each of another architecture.

    The blocks model, diffusion, train, tune and sample are those of the experiment `recipe`, with `changes`. The member
    experiments keep their own zoos, tokens and generators, with which the joint generator is compared.
    """

    members: Annotated[
        list[str], Field(min_length=2, description="experiments whose zoos the joint RPG learns; D is the same in all")
    ]
    recipe: Annotated[str, Field(description="experiment that has the blocks of the joint RPG")]
    changes: Annotated[
        dict[str, Any], Field(description="changes of the recipe by dotted key; null removes the stage tune")
    ]
    seeds: Annotated[Seeds, Field(description="seeds of the training; `rpg generate` uses the first one's RPG")]
    across: Annotated[
        bool,
        Field(
            description="whether the task loss also asks each architecture for the permutation states of the others, so"
            " that an architecture that was not trained can be asked for any of them"
        ),
    ]
    unseen: Annotated[
        list[str],
        Field(description="experiments whose architecture the joint RPG makes without training on any of its networks"),
    ]

    @property
    def experiments(self) -> list[str]:
        """The members and the experiments of architectures that were not trained."""
        return [*self.members, *self.unseen]

    @model_validator(mode="after")
    def _listed_once(self) -> "JointExperiment":
        if len(set(self.experiments)) != len(self.experiments):
            raise ValueError("members: an experiment is listed twice among members and unseen; remove one")
        return self

    def check(self, recipe: Experiment, experiments: Mapping[str, Experiment]) -> None:
        """Raise ValueError if `recipe`, with the changes, does not fit the `experiments` of params.yaml."""
        width = experiments[self.members[0]].tokens.width
        for name in self.experiments:
            if experiments[name].tokens.width != width:
                own = experiments[name].tokens.width
                raise ValueError(f"members: {name} has tokens.width {own}, and {self.members[0]} has {width}")
            if experiments[name].task.has_codes or experiments[name].tokens.canonical is not None:
                raise ValueError(f"members: {name} has task codes or adapters; a joint RPG has neither")
        backbone = recipe.model.backbone
        if not isinstance(backbone, ResidualBackboneConfig) or "described" not in backbone.positions:
            raise ValueError("changes: model.backbone.positions must hold described, in a backbone of residual blocks")
        if recipe.model.start != "zero":
            raise ValueError("changes: model.start must be zero")
        conditions = recipe.model.conditions
        if [condition.kind for condition in conditions] != ["permutation_state"] or any(
            getattr(condition, "reach", "all") != "all" for condition in conditions
        ):
            raise ValueError("changes: model.conditions must be one permutation_state with reach all")
        if (self.across or self.unseen) and not (self.across and recipe.tune):
            raise ValueError("across: unseen architectures need across: true and a tune block")
