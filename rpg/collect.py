"""Collect the checkpoints of a zoo's shards: `rpg collect --experiment digits-resnet`.

Writes zoo/checkpoints.json, which lists them all, and removes the shards whose seeds params.yaml no longer names.
"""

import shutil
from pathlib import Path
from typing import Any

from rpg.base import fingerprint
from rpg.errors import UserError
from rpg.files import check_unchanged, exclusive, read_sealed, write_sealed
from rpg.forms import Checkpoints, Shard
from rpg.params import Experiment


def collect_zoo(experiment: Experiment, zoo: Path, base: Path) -> None:
    """Write zoo/checkpoints.json: the checkpoints of all runs, by seed, code and step, and their tensors' names.

    Raises UserError if a shard was trained by another recipe than params.yaml gives, from another base network than
    the one in `base`, lacks a run, or a checkpoint is missing or was changed after it was trained.
    """
    shards = experiment.shards()
    start = fingerprint(experiment, base)
    with exclusive(zoo):
        checkpoints, names = [], []
        for shard, runs in shards.items():
            path = zoo / shard / "manifest.json"
            manifest = read_sealed(path, f"rpg zoo --shard {shard}", Shard)
            _check_recipe(path, manifest["recipe"], experiment.recipe(runs))
            if manifest["base"] != start:
                raise UserError(f"{path}: trained from another base network; delete {path.parent} and train it again")
            names = manifest["tensors"]
            checkpoints += [{**entry, "file": f"{shard}/{entry['file']}"} for entry in manifest["checkpoints"]]
            found = {(entry["seed"], entry.get("code")) for entry in manifest["checkpoints"]}
            for run in runs:
                if (run.seed, run.code) not in found:
                    raise UserError(f"{path}: no checkpoint of {run}; delete it and run `rpg zoo` again")
        for entry in checkpoints:
            check_checkpoint(zoo, entry)
        for folder in zoo.iterdir():
            if folder.is_dir() and folder.name not in shards:
                with exclusive(folder):
                    shutil.rmtree(folder)
        checkpoints.sort(key=lambda entry: (entry["seed"], entry.get("code", ""), entry["step"]))
        write_sealed(zoo / "checkpoints.json", {"checkpoints": checkpoints, "tensors": names})


def read_zoo(zoo: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The checkpoints that `collect_zoo` listed, by seed, code and step, and the names of their tensors in order.

    Raises UserError if one of them is missing or was changed after it was trained.
    """
    tree = read_sealed(zoo / "checkpoints.json", "rpg collect", Checkpoints)
    for entry in tree["checkpoints"]:
        check_checkpoint(zoo, entry)
    return tree["checkpoints"], tree["tensors"]


def check_checkpoint(zoo: Path, entry: dict[str, Any]) -> None:
    """UserError unless the checkpoint file of `entry` holds what it held when it was trained."""
    shard = Path(entry["file"]).parent
    check_unchanged(zoo, entry["file"], entry["sha256"], "trained", f"`rpg zoo --shard {shard}`")


def _check_recipe(path: Path, trained: Any, wanted: Any) -> None:
    for block, keys in wanted.items():
        for key, value in keys.items():
            found = trained.get(block, {}).get(key)
            if found != value:
                raise UserError(
                    f"{path}: trained with {block}.{key} {_short(found)}, params.yaml says {_short(value)};"
                    f" delete {path.parent} and train it again"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 100 else f"{text[:97]}..."
