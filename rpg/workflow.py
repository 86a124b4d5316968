"""What the rules ask about params.yaml: targets, and the choices that each layer's result depends on."""

from functools import cache
from typing import Any, Protocol

from rpg.params import Params, load_params
from rpg.paths import Paths


class Wildcards(Protocol):
    """Snakemake's wildcards of the rules here."""

    experiment: str
    shard: str


@cache
def _params() -> Params:
    return load_params()


def _block(wildcards: Wildcards, *names: str) -> dict[str, Any]:
    return _params().experiment(wildcards.experiment).model_dump(include=set(names))


def shard_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the shard depends on: the task and the recipe, and its own seeds, not those of other shards."""
    choices = _block(wildcards, "task", "zoo")
    choices["zoo"]["seeds"] = _params().experiment(wildcards.experiment).zoo.shards()[wildcards.shard]
    return choices


def token_choices(wildcards: Wildcards) -> dict[str, Any]:
    """What the tokens depend on, besides the checkpoints: their width, and which seeds belong to the zoo."""
    return {**_block(wildcards, "tokens"), "seeds": _params().experiment(wildcards.experiment).zoo.seeds}


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
    return [str(zoo / shard / "manifest.json") for shard in _params().experiment(wildcards.experiment).zoo.shards()]
