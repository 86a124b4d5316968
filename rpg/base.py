"""Train the networks that a zoo's runs start from: `rpg base --experiment digits-tasks`.

Writes base/<seed>.safetensors and, last, base/manifest.json, which vouches for them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rpg.files import (
    check_unchanged,
    clear,
    exclusive,
    file_entry,
    read_sealed,
    read_tensors,
    sha256,
    write_sealed,
)
from rpg.forms import Files
from rpg.params import Experiment

if TYPE_CHECKING:
    from rpg.tasks.stack import StateDict


def train_base(experiment: Experiment, folder: Path, data_root: str | None) -> None:
    """Train the base networks of `experiment`, which must have some, into `folder`."""
    # `rpg collect` reads here and trains nothing, so it needs no torch.
    from rpg.tasks import load_task

    assert experiment.base
    task = load_task(experiment.task, data_root)
    task.check_base()
    with exclusive(folder):
        clear(folder)
        files = []
        for seed in experiment.base.seeds:
            path = task.write_base(folder / f"{seed:04d}", experiment.base, task.train_base(experiment.base, seed))
            files.append(file_entry(path, folder))
        write_sealed(folder / "manifest.json", {"files": files})


def read_base(experiment: Experiment, folder: Path, seed: int) -> "StateDict | None":
    """The weights in `folder` that the runs of the zoo's `seed` start from; None if they start from random ones.

    Raises UserError if they are missing or were changed.
    """
    if not experiment.base:
        return None
    # One for each of the base's seeds, in their order.
    entries = read_sealed(folder / "manifest.json", "rpg base", Files)["files"]
    entry = entries[experiment.zoo.seeds.index(seed) % len(entries)]
    check_unchanged(folder, entry["file"], entry["sha256"], "trained", "`rpg base`")
    return read_tensors(folder / entry["file"])


def fingerprint(experiment: Experiment, folder: Path) -> str | None:
    """The SHA-256 of what vouches for the base networks in `folder`; None if the experiment has none."""
    if not experiment.base:
        return None
    read_sealed(folder / "manifest.json", "rpg base", Files)
    return sha256(folder / "manifest.json")
