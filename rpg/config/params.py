"""The whole of params.yaml: experiments and ablations."""

from typing import Annotated, Any

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from rpg.blocks import PARAMS_FILE, Block, Seeds
from rpg.config.experiment import AnyExperiment, Experiment
from rpg.config.joint import JointExperiment
from rpg.utils.errors import UserError, suggestion

NAME = r"[a-z0-9][a-z0-9_-]*"


Name = Annotated[str, Field(pattern=f"^{NAME}$")]


class Ablation(Block):
    """One table of variants of an experiment.

    Each variant changes one or two choices and is trained from several seeds. A variant with one seed is an experiment
    named `<ablation>/<variant>-<seed>`. Stages that a variant shares with the experiment or with an earlier variant run
    once.
    """

    question: str
    experiment: Annotated[str, Field(description="the experiment that the variants change")]
    seeds: Annotated[
        Seeds, Field(description="seeds of the stages train, tune and hypernetwork; every variant has each seed")
    ]
    novelty: Annotated[bool, Field(description="whether the table shows distances from the zoo")]
    baselines: Annotated[
        bool, Field(description="whether a second table compares the best variant with every method without RPG")
    ] = False
    peers: Annotated[
        bool,
        Field(
            exclude_if=lambda value: value is False,
            description="whether the variants are generators, which results/peers.md compares",
        ),
    ] = False
    variants: Annotated[
        dict[Name, dict[str, Any]],
        Field(
            min_length=1, description="changes by dotted key, such as {model.backbone.kind: lstm}; null removes a stage"
        ),
    ]


class Params(Block):
    """The whole of params.yaml."""

    run: Annotated[
        list[str],
        Field(min_length=1, description="experiments and ablations to run; results/tables.md shows the experiments"),
    ]
    data_root: Annotated[
        str | None, Field(description="folder of the data sets; the environment variable RPG_DATA overrides it")
    ]
    language_model: Annotated[
        str | None, Field(description="folder of a causal language model for --describe; null uses a built-in lexicon")
    ]
    experiments: dict[Name, AnyExperiment]
    ablations: dict[Name, Ablation]
    joint: Annotated[
        dict[Name, JointExperiment],
        Field(default_factory=dict, description="generators of the networks of several experiments"),
    ]
    _recipes: dict[str, Experiment] = PrivateAttr(default_factory=dict)
    _trials: dict[str, dict[str, Experiment]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _experiments_fit(self) -> "Params":
        for name, experiment in self.experiments.items():
            if experiment.model.generator:
                # Tables, model cards and plans of an experiment say that RPG made the networks.
                raise ValueError(f"experiments.{name}.model.generator: only a variant of an ablation has another one")
            try:
                experiment.task.check_among(name, self.experiments)
            except ValueError as error:
                raise ValueError(f"experiments.{name}.{error}") from error
        return self

    @model_validator(mode="after")
    def _make_trials(self) -> "Params":
        for name, ablation in self.ablations.items():
            if name in self.experiments:
                raise ValueError(f"ablations.{name}: an experiment has the same name; rename one of them")
            if ablation.peers and not ablation.novelty:
                raise ValueError(f"ablations.{name}.peers: needs novelty: true, because the page has distances")
            if ablation.experiment not in self.experiments:
                known = suggestion(ablation.experiment, list(self.experiments))
                raise ValueError(f"ablations.{name}.experiment: no experiment '{ablation.experiment}'{known}")
            base = self.experiments[ablation.experiment]
            self._trials[name] = {
                f"{name}/{variant}-{seed}": _seeded(
                    _changed(base, changes, f"ablations.{name}.variants.{variant}"), seed
                )
                for variant, changes in ablation.variants.items()
                for seed in ablation.seeds
            }
        return self

    @model_validator(mode="after")
    def _make_recipes(self) -> "Params":
        for name, joint in self.joint.items():
            where = f"joint.{name}"
            if name in self.experiments or name in self.ablations:
                raise ValueError(f"{where}: an experiment or ablation has the same name; rename one of them")
            for key, listed in (("recipe", [joint.recipe]), ("members", joint.members), ("unseen", joint.unseen)):
                for one in listed:
                    if one not in self.experiments:
                        known = suggestion(one, list(self.experiments))
                        raise ValueError(f"{where}.{key}: no experiment '{one}'{known}")
            recipe = _changed(self.experiments[joint.recipe], joint.changes, f"{where}.changes")
            try:
                joint.check(recipe, self.experiments)
            except ValueError as error:
                raise ValueError(f"{where}.{error}") from error
            self._recipes[name] = recipe
        return self

    def joint_experiment(self, name: str) -> JointExperiment:
        """Return the joint experiment named `name`; UserError with the known names if there is none."""
        if name not in self.joint:
            raise UserError(f"{PARAMS_FILE}: no joint experiment '{name}'{suggestion(name, list(self.joint))}")
        return self.joint[name]

    def joint_recipe(self, name: str, seed: int) -> Experiment:
        """Return the experiment whose blocks train the joint RPG `name` with a seed."""
        self.joint_experiment(name)
        return _seeded(self._recipes[name], seed)

    def experiment(self, name: str) -> Experiment:
        """Return the experiment or trial named `name`.

        Raises UserError with the known names if there is no such experiment.
        """
        ablation = name.partition("/")[0]
        known = self._trials[ablation] if "/" in name and ablation in self._trials else self.experiments
        if name not in known:
            raise UserError(f"{PARAMS_FILE}: no experiment '{name}'{suggestion(name, list(known))}")
        return known[name]

    def ablation(self, name: str) -> Ablation:
        """Return the ablation named `name`; UserError with the known names if there is no such ablation."""
        if name not in self.ablations:
            raise UserError(f"{PARAMS_FILE}: no ablation '{name}'{suggestion(name, list(self.ablations))}")
        return self.ablations[name]

    def trials(self, ablation: str) -> dict[str, Experiment]:
        """Return name → experiment of an ablation, variant after variant."""
        return self._trials[ablation]

    def covering(self, run: list[str], where: str) -> "Params":
        """Return the same params with another `run` list.

        Raises UserError that begins with `where` if a name is unknown or listed twice, or if no name is an experiment.
        """
        known = [*self.experiments, *self.ablations]
        for name in run:
            if name not in known:
                raise UserError(f"{where}: run: no experiment '{name}'{suggestion(name, known)}")
        if not set(run) & self.experiments.keys():
            raise UserError(f"{where}: run: holds only ablations; add an experiment")
        if len(set(run)) != len(run):
            raise UserError(f"{where}: run: a name is listed twice; remove one")
        return self.model_copy(update={"run": run})

    def experiments_to_run(self) -> list[str]:
        """Return the experiments in `run:`."""
        return [name for name in self.run if name in self.experiments]

    def ablations_to_run(self) -> list[str]:
        """Return the ablations in `run:`."""
        return [name for name in self.run if name in self.ablations]


def _seeded(experiment: Experiment, seed: int) -> Experiment:
    """Return `experiment` with another training seed."""
    blocks = {block: getattr(experiment, block) for block in ("train", "tune", "hypernetwork")}
    return experiment.model_copy(
        update={name: block.model_copy(update={"seed": seed}) for name, block in blocks.items() if block}
    )


def _changed(experiment: Experiment, changes: dict[str, Any], where: str) -> Experiment:
    """Return `experiment` with other values at some dotted keys; ValueError for an unknown key or a bad value."""
    tree = experiment.model_dump()
    for key, value in changes.items():
        *blocks, last = key.split(".")
        node, own = tree, experiment
        for block in blocks:
            node = node.get(block) if isinstance(node, dict) else None  # type: ignore[assignment]
            own = getattr(own, block, None)  # type: ignore[assignment]
        # A dump leaves out optional keys without a value.
        if not isinstance(node, dict) or (last not in node and last not in getattr(type(own), "model_fields", ())):
            raise ValueError(f"{where}: the experiment has no key '{key}'")
        node[last] = value
    try:
        return type(experiment).model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise ValueError(": ".join([f"{where}", *filter(None, [place]), message_of(fault)])) from error


def message_of(fault: Any) -> str:
    """Return the message of one of pydantic's `ValidationError.errors()`, ready for the middle of a line."""
    text: str = fault["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
