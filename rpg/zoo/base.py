"""Train the base networks that a zoo's runs start from: `rpg base --experiment digits-tasks`.

The stage writes base/<seed>.safetensors and, last, base/manifest.json with their digests.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rpg.config.experiment import Experiment
from rpg.utils.files import (
    clear,
    exclusive,
    file_entry,
    write_sealed,
)

if TYPE_CHECKING:
    pass


def train_base(experiment: Experiment, folder: Path, data_root: str | None) -> None:
    """Train the base networks of `experiment` into `folder`. The experiment must have a `base` block."""
    # The import is local because `rpg collect` imports this package and needs no torch.
    from rpg.tasks.loading import load_task

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
