"""Generate networks: `rpg generate --experiment digits-tasks --classes 3,8 --out eights.safetensors`.

In Python, `rpg.generate("digits-tasks", classes=[3, 8])` returns a state dict.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rpg.generator.trained import TrainedRPG
from rpg.utils.condition_requests import Vectors


def generate(
    experiment: str,
    *,
    classes: Sequence[int | str] | None = None,
    code: str | None = None,
    describe: str | None = None,
    state: int | Sequence[int] | None = None,
    seed: int | None = None,
    steps: int | None = None,
    vectors: Vectors | None = None,
    images: Any = None,
    labels: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    architecture: str | None = None,
    root: Path | str = ".",
) -> dict[str, Tensor]:
    """Return the state dict of one new network, on the CPU.

    Choose the task by `classes` (indices or names), by a task `code` ("0001000010") or in words (`describe`). `state`
    chooses one permutation state, or several to mix in equal shares. `vectors` sets conditions of the kind `vector` by
    name. `images` [n, C, H, W] with `labels` [n], 0 for no and 1 for yes, show the task to an RPG that takes images.
    `prompts`, a list of questions without answers, show it to an RPG that takes questions.
    `architecture` names the experiment whose networks a joint experiment makes. Omitted values are drawn. An omitted
    seed or number of steps comes from params.yaml in the folder `root`.

    Raises UserError if the experiment is not trained, or if the request is contradictory or unknown.
    """
    trained = TrainedRPG.of_experiment(experiment, Path(root), architecture)
    return trained.generate(classes, code, describe, state, seed, steps, vectors, images, labels, prompts)
