"""Collect the checkpoints of a zoo's shards: `rpg collect --experiment digits-resnet`.

The stage writes zoo/checkpoints.json, the list of all checkpoints. It removes shards whose seeds params.yaml no longer
names.
"""

import shutil
from pathlib import Path
from typing import Any

from rpg.config.experiment import Experiment
from rpg.utils.errors import UserError
from rpg.utils.files import exclusive, read_sealed, write_sealed
from rpg.zoo.manifest import Checkpoint, Shard, check_checkpoint, check_vectors, fingerprint


def collect_zoo(experiment: Experiment, zoo: Path, base: Path) -> None:
    """Write zoo/checkpoints.json: all checkpoints, sorted by seed, code and step, and their tensors' names.

    Raises UserError if a shard's recipe differs from params.yaml, if its base network differs from the one in `base`,
    if it lacks a run, if a checkpoint is missing or was changed after training, or if a checkpoint lacks a number that
    the model's conditions name.
    """
    shards = experiment.shards()
    start = fingerprint(experiment, base)
    with exclusive(zoo):
        checkpoints: list[Checkpoint] = []
        names: list[str] = []
        facts: dict[str, Any] = {}
        for shard, runs in shards.items():
            path = zoo / shard / "manifest.json"
            manifest = read_sealed(path, f"rpg zoo --shard {shard}", Shard)
            _check_recipe(path, manifest.recipe, experiment.recipe(runs))
            if manifest.base != start:
                raise UserError(f"{path}: the base network has changed since; delete {path.parent} and train it again")
            names = manifest.tensors
            facts = {key: value for key in ("buffers", "tied") if (value := getattr(manifest, key))}
            checkpoints += [
                checkpoint.model_copy(update={"file": f"{shard}/{checkpoint.file}"})
                for checkpoint in manifest.checkpoints
            ]
            trained_runs = {(checkpoint.seed, checkpoint.code) for checkpoint in manifest.checkpoints}
            for run in runs:
                if (run.seed, run.code) not in trained_runs:
                    raise UserError(f"{path}: no checkpoint of {run}; delete it and run `rpg zoo` again")
        for checkpoint in checkpoints:
            check_checkpoint(zoo, checkpoint)
            check_vectors(experiment.model.conditions, checkpoint.number_keys(), checkpoint.file)
        for folder in zoo.iterdir():
            if folder.is_dir() and folder.name not in shards:
                with exclusive(folder):
                    shutil.rmtree(folder)
        checkpoints.sort(key=lambda checkpoint: (checkpoint.seed, checkpoint.code or "", checkpoint.step))
        listed = [checkpoint.tree() for checkpoint in checkpoints]
        write_sealed(zoo / "checkpoints.json", {"checkpoints": listed, "tensors": names, **facts})


def _check_recipe(path: Path, trained: Any, wanted: Any) -> None:
    for block, keys in wanted.items():
        for key, value in keys.items():
            old = trained.get(block, {}).get(key)
            if old != value:
                raise UserError(
                    f"{path}: trained with {block}.{key} {_short(old)}, but params.yaml says {_short(value)};"
                    f" delete {path.parent} and train it again"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else f"{text[:97]}..."
