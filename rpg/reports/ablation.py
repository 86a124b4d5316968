"""Summarize the variants of an ablation: `rpg ablation --experiment recurrent-model`.

Writes results/<ablation>/ablation.json with a summary of every variant over all training seeds.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rpg.config.params import Params
from rpg.evaluation.novelty import run_distance, verdict
from rpg.evaluation.results import ParameterCount, Scores
from rpg.evaluation.score import SETS, run_label, summary
from rpg.paths import Paths, ablation_file, paths_of
from rpg.utils.files import read_sealed, verified_file, write_sealed


def summarize(params: Params, name: str, results: Path) -> None:
    """Write ablation.json of the ablation `name`; UserError if a trial is missing."""
    ablation = params.ablation(name)
    # A list, because JSON keeps no order of keys.
    variants = []
    for variant, changes in ablation.variants.items():
        trials = [paths_of(params, f"{name}/{variant}-{seed}", results) for seed in ablation.seeds]
        variants.append({"variant": variant, "changes": changes, **_variant(trials, ablation.novelty)})
    write_sealed(ablation_file(name, results), {"variants": variants})


def _variant(trials: list[Paths], novelty: bool) -> dict[str, Any]:
    """Summarize the samples and originals of one variant, by set of tasks, over all trainings."""
    rows = []
    for trial, paths in enumerate(trials):
        scored = read_sealed(paths.file("score.scores"), f"rpg score --experiment {paths.experiment}", Scores)
        for kind, networks in (("original", scored.original), ("rpg", scored.rpg)):
            for network in networks:
                # Networks of different trainings are independent, so the group's label names the trial.
                facts = {"kind": kind, "trial": trial, "set": network.set, "run": f"{trial} {run_label(network)}"}
                rows.append({**facts, "test": network.test})
    scores = pd.DataFrame(rows)
    # All trials share the originals, so the first trial's suffice.
    known = scores[(scores["kind"] == "original") & (scores["trial"] == 0)]
    tree: dict[str, Any] = {
        "parameters": read_sealed(trials[0].file("train.config"), "rpg train", ParameterCount).parameters,
        "sets": {},
    }
    for name in (name for name in SETS if (scores["set"] == name).any()):
        samples = scores[(scores["set"] == name) & (scores["kind"] == "rpg")]
        originals = known if name == "between" else known[known["set"] == name]
        tree["sets"][name] = {
            "rpg": summary(samples["test"].tolist(), samples["run"].tolist()),
            "original": summary(originals["test"].tolist(), originals["run"].tolist()),
            "by_seed": [round(float(value), 4) for value in samples.groupby("trial")["test"].mean()],
        }
    if novelty:
        files = [
            verified_file(
                paths.file("novelty.rows"),
                paths.file("novelty.summary"),
                f"rpg novelty --experiment {paths.experiment}",
            )
            for paths in trials
        ]
        measures = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
        originals = measures[measures["networks"] == "original"]
        for name, entry in tree["sets"].items():
            samples = measures[(measures["networks"] == "RPG") & (measures["set"] == name)]
            entry["novelty"] = {
                "verdict": verdict(samples, originals),
                "rpg": round(float(samples["aligned"].median()), 4),
                "original": round(run_distance(originals), 4),
            }
    return tree
