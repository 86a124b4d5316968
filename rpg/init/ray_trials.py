"""The numbers that Ray Tune keeps beside the checkpoints of its trials: params.json and progress.csv.

A trial's folder has params.json, the hyperparameters, and progress.csv, a row of metrics for each report. The column
`checkpoint_dir_name` names the checkpoint of a row; without it, the number at the end of the checkpoint's folder is the
row's `training_iteration`, as in the published model zoos that Ray 1 and 2.0 wrote.
"""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rpg.tasks.custom.facts import CHECKPOINT, MOST_CLASSES, NAME, RESERVED
from rpg.utils.errors import UserError

PARAMS, PROGRESS = "params.json", "progress.csv"
# Columns that Ray adds to every report, none of which says anything about the network. Ray 2.56.1.
BOOKKEEPING = frozenset(
    {
        "checkpoint_dir_name", "date", "done", "experiment_id", "experiment_tag", "hostname",
        "iterations_since_restore", "node_ip", "pid", "should_checkpoint", "time_since_restore", "time_this_iter_s",
        "time_total_s", "timestamp", "timesteps_since_restore", "timesteps_total", "trial_id", "warmup_time",
    }
)  # fmt: skip


def trial_of(checkpoint: Path) -> Path | None:
    """Return the folder of a checkpoint's trial; None if no trial's folder is above it."""
    return next((folder for folder in checkpoint.parents if (folder / PARAMS).is_file()), None)


def trial_facts(checkpoints: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a row for each checkpoint: its path and the numbers and texts that all of them have and that differ.

    The hyperparameters come before the metrics. Empty if a checkpoint belongs to no trial, or if nothing differs.
    Raises UserError if params.json can't be read.
    """
    rows: list[dict[str, Any]] = []
    for path in checkpoints:
        trial = trial_of(path)
        if not trial:
            return []
        rows.append({CHECKPOINT: str(path), **_hyperparameters(trial / PARAMS), **_metrics(trial, path)})
    names = [name for name in rows[0] if name != CHECKPOINT and all(name in row for row in rows)] if rows else []
    kept = [name for name in names if _is_fact([row[name] for row in rows])]
    return [{name: row[name] for name in (CHECKPOINT, *kept)} for row in rows] if kept else []


def _is_fact(values: Sequence[Any]) -> bool:
    """Return whether the values are all numbers or all texts, and not all equal."""
    kinds = {isinstance(value, str) for value in values}
    different = set(values)
    return len(kinds) == 1 and 1 < len(different) <= (MOST_CLASSES if kinds == {True} else len(values))


def _hyperparameters(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    return _named(_flat(tree)) if isinstance(tree, dict) else {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _metrics(trial: Path, checkpoint: Path) -> dict[str, Any]:
    """Return the numbers of the checkpoint's row in progress.csv; none without such a row."""
    path = trial / PROGRESS
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    folder = checkpoint.relative_to(trial).parts[0]
    found = next((row for row in rows if row.get("checkpoint_dir_name") == folder), None)
    count = re.search(r"\d+$", folder)
    if not found and count and rows and "checkpoint_dir_name" not in rows[0]:
        found = next((row for row in rows if row.get("training_iteration") == str(int(count[0]))), None)
    columns = {name: _number(text) for name, text in (found or {}).items() if not name.startswith("config/")}
    return _named({name: value for name, value in columns.items() if name not in BOOKKEEPING and value is not None})


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the finite numbers and the texts, under names that a table of facts may have."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        plain = re.sub(r"[^\w .-]", "_", name)
        plain = f"{plain}_" if plain in RESERVED else plain
        if isinstance(value, bool):
            value = float(value)
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value)):
            named[plain if NAME.fullmatch(plain) else f"x{plain}"] = value
    return named
