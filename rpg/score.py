"""Score originals and samples on the test split, by the same code: `rpg score --experiment digits-vit`.

Writes scores.json, every network's score, and metrics.json, their summary over all originals and all samples (test
split; the standard deviation is the sample's, n - 1). `rpg score --experiment digits-vit --weights FILE` prints the
score of any state dict.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rpg.collect import read_zoo
from rpg.errors import UserError
from rpg.files import check_unchanged, read_json, read_tensors, write_json
from rpg.params import Experiment
from rpg.progress import progress
from rpg.tasks import load_task


def score_layer(
    experiment: Experiment, zoo: Path, samples: Path, out: Path, metrics: Path, data_root: str | None
) -> None:
    """Score every checkpoint of the zoo and every sample; both on validation, for choices, and on test, for tables."""
    task = load_task(experiment.task, data_root)
    checkpoints, _ = read_zoo(zoo)
    originals = [(zoo / entry["file"], {"seed": entry["seed"], "step": entry["step"]}) for entry in checkpoints]
    manifest = read_json(samples / "manifest.json", "rpg sample", "samples")["samples"]
    for entry in manifest:
        check_unchanged(samples / entry["file"], entry["sha256"], "sampled", "`rpg sample`")
    generated = [(samples / entry["file"], {"state": entry["state"]}) for entry in manifest]

    def score(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
        state_dict = read_tensors(path)
        splits = {split: task.score(state_dict, split) for split in ("validation", "test")}
        return {"file": f"{path.parent.name}/{path.name}", **facts, **splits}

    networks = [*originals, *generated]
    scores = [score(*network) for network in progress(networks, "score", total=len(networks))]
    result: dict[str, Any] = {
        "metric": task.metric,
        "parameters": sum(parameter.numel() for parameter in task.build().parameters()),
        "original": scores[: len(originals)],
        "rpg": scores[len(originals) :],
    }
    write_json(out, result)
    kinds = {kind: summary([network["test"] for network in result[kind]]) for kind in ("original", "rpg")}
    write_json(metrics, {"metric": result["metric"], "parameters": result["parameters"], **kinds})


def summary(values: list[float]) -> dict[str, float | int]:
    """mean, std, min, best and n of `values`, higher being better; std is 0 for a single value."""
    series = pd.Series(values)
    return {
        "mean": round(float(series.mean()), 4),
        "std": round(float(series.std()), 4) if len(series) > 1 else 0.0,
        "min": round(float(series.min()), 4),
        "best": round(float(series.max()), 4),
        "n": len(series),
    }


def score_file(experiment: Experiment, weights: Path, data_root: str | None) -> str:
    """One line: the score of the state dict in `weights` on the test split."""
    task = load_task(experiment.task, data_root)
    state_dict = read_tensors(weights)
    for name, tensor in state_dict.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights}: tensor '{name}' holds NaN or Inf")
    return f"{weights}: {task.metric} {task.score(state_dict, 'test'):.2f}"
