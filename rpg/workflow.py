"""What the rules ask about params.yaml: targets, and the choices that each layer's result depends on."""

import os
from functools import cache
from typing import Any, Protocol

from snakemake.exceptions import WorkflowError

from rpg.errors import UserError
from rpg.params import Experiment, Params, load_params
from rpg.paths import RESULTS, Paths


class Wildcards(Protocol):
    """Snakemake's wildcards of the rules here."""

    experiment: str
    shard: str


@cache
def _params() -> Params:
    try:
        return load_params()
    except UserError as error:
        raise WorkflowError(str(error)) from None


def check_params() -> None:
    """WorkflowError, one line, if params.yaml has a fault."""
    _params()


def run() -> list[str]:
    """The experiments that the tables cover, as `rpg tables` reads them."""
    return _params().run


def _experiment(wildcards: Wildcards) -> Experiment:
    return _params().experiment(wildcards.experiment)


def _block(wildcards: Wildcards, *names: str) -> dict[str, Any]:
    return _experiment(wildcards).model_dump(include=set(names))


def shard_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the shard depends on: the task and the recipe, and its own seeds, not those of other shards."""
    choices = _block(wildcards, "task", "zoo")
    shards = _experiment(wildcards).zoo.shards()
    if wildcards.shard not in shards:
        raise WorkflowError(f"shard {wildcards.shard}: not in this zoo; known: {', '.join(shards)}")
    choices["zoo"]["seeds"] = shards[wildcards.shard]
    return choices


def token_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the tokens depend on, besides the checkpoints: their width, and which seeds belong to the zoo."""
    return {**_block(wildcards, "tokens"), "seeds": _experiment(wildcards).zoo.seeds}


def train_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the trained RPG depends on, besides the tokens."""
    return _block(wildcards, "model", "diffusion", "train")


def sample_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the samples depend on, besides RPG and the layout."""
    return _block(wildcards, "sample")


def score_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the scores depend on, besides the networks: how to build and score them."""
    return _block(wildcards, "task")


def manifests(wildcards: Wildcards) -> list[str]:
    """The manifests of all shards of an experiment's zoo; each holds the hashes of its checkpoints."""
    zoo = Paths(wildcards.experiment).zoo
    return [str(zoo / shard / "manifest.json") for shard in _experiment(wildcards).zoo.shards()]


def distrust_tables() -> None:
    """Give results/tables.md the oldest time if scores behind it are missing, as in a fresh clone.

    The tables live in git, and Snakemake makes missing files anew only for a job that has to run for another reason:
    a clone's tables would pass for finished. Older than params.yaml, an input of theirs, they are made from scratch.
    """
    tables = RESULTS / "tables.md"
    if tables.exists() and not all(Paths(name).scores.exists() for name in _params().run):
        # Not 0, which Snakemake takes for no time at all.
        os.utime(tables, (1, 1))
