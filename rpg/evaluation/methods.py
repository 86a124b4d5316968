"""The methods whose networks the tables compare: each method's name, and the source of its knowledge."""

from dataclasses import dataclass

# The suffix of a method whose networks got BatchNorm statistics of training images in place of their own.
RECOUNTED = "_recounted"


@dataclass(frozen=True)
class MethodFacts:
    """A method's name in the tables, and what it knows: zoo, base network, labels or images."""

    label: str
    knows: str


# In the order of the rows; an experiment may lack methods. "Labels" are those of training images, in the tasks of the
# zoo's checkpoints; "own labels" are those of the task that the network is for.
METHODS = {
    "original": MethodFacts("trained for the task", "own labels"),
    "rpg": MethodFacts("RPG", "zoo"),
    "untuned": MethodFacts("RPG, not tuned", "zoo"),
    "hypernetwork": MethodFacts("hypernetwork, task loss only", "labels"),
    "base_lookup": MethodFacts("base network alone", "base network"),
    "base_probe": MethodFacts("logistic regression on the base network's features", "base network, own labels"),
    "ridge_pairs": MethodFacts("ridge regression, pairs of bits", "zoo"),
    "ridge": MethodFacts("ridge regression, bits", "zoo"),
    "ridge_questions": MethodFacts("ridge regression, questions", "zoo"),
    "nearest_questions": MethodFacts("weights of the seen task with the nearest questions", "zoo"),
    "nearest_task": MethodFacts("weights of the nearest seen task", "zoo"),
    "mean_network": MethodFacts("mean of the seen networks", "zoo"),
    "majority_class": MethodFacts("majority class", "own labels"),
}


def kinds() -> list[str]:
    """Return all methods in the order of the tables, each with its recounted variant after it."""
    return [name for kind in METHODS for name in (kind, f"{kind}{RECOUNTED}")]


def label(kind: str) -> str:
    """Return the name of a method in the tables; a mixture, such as "noise 0.1", is its own name."""
    plain = kind.removesuffix(RECOUNTED)
    name = METHODS[plain].label if plain in METHODS else plain
    return name if plain == kind else f"{name}, BatchNorm recounted"


def knows(kind: str, tune: str | None, start: str, loss: str = "labels") -> str:
    """Return the source of a method's knowledge.

    `tune` is what tuning adds to RPG, such as "labels"; None without tuning. `start` and `loss` are those of the block
    `hypernetwork`. A loss on outputs reads no labels, but the outputs of the zoo's networks for images.
    """
    plain = kind.removesuffix(RECOUNTED)
    parts = [METHODS[plain].knows]
    if plain == "rpg" and tune:
        parts.append(tune)
    if plain == "hypernetwork" and loss == "outputs":
        parts = ["zoo", "images"]
    elif plain == "hypernetwork" and start != "zero":
        parts.insert(0, "mean of the zoo")
    if kind != plain and "images" not in parts:
        parts.append("images")
    return ", ".join(parts)
