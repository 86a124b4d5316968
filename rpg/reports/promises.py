"""What the default experiments promise of their generated networks, on any processor: lower bounds.

A bound is the least that a measure of `quality` may be. `python -m benchmarks robustness` measures the values behind
the bounds with several training seeds in two arithmetics; docs/testing.md has the rule by which a bound follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpg.reports.artifacts import ExperimentResult
from rpg.reports.formatting import table
from rpg.utils.artifacts import Measured
from rpg.utils.metric import PERCENT

Bounds = Mapping[str, Mapping[str, float]]

# The sets of samples in test.json.
SETS = ("rpg", "between", "seen", "held_out", "held_out_pairs")
# Further metrics of the paper's tables, and the other protocol for adapters.
LIKELIHOOD = "average accuracy (likelihood)"
OTHERS = ("mAcc", "bbox AP50", "segm mAP", LIKELIHOOD)
# The main job with the recipes of params.yaml.
PROMISES: Bounds = {
    "digits-resnet": {"originals": 96.0, "rpg": 0.98, "rpg min": 0.95},
    "digits-vit": {"originals": 93.0, "rpg": 0.98, "rpg min": 0.95, "between": 0.95, "between above untuned": 10.0},
    "digits-convnext": {
        "originals": 96.0,
        "rpg": 0.98,
        "rpg min": 0.95,
        "between": 0.95,
        "between above untuned": 10.0,
    },
    "digits-tasks": {
        "originals": 98.0,
        "seen": 0.98,
        "held_out": 0.98,
        "rpg min": 0.95,
        "held_out above majority_class": 30.0,
        "held_out above mean_network": 40.0,
        "held_out above nearest_task": 8.0,
        "held_out above ridge": 2.5,
        "held_out above ridge_pairs": 0.0,
        # The hypernetwork starts from the zoo's mean, too, and is level; the base network alone is better than both.
        "held_out above hypernetwork": -1.0,
        "held_out above base_probe": -1.5,
        "held_out above base_lookup": -2.0,
    },
    "digits-tasks-seeds": {
        "originals": 98.0,
        "seen": 0.985,
        "held_out": 0.985,
        "held_out_pairs": 0.985,
        "rpg min": 0.93,
        "held_out above majority_class": 30.0,
        "held_out above mean_network": 40.0,
        "held_out above nearest_task": 10.0,
        "held_out above ridge": 3.0,
        "held_out above ridge_pairs": 3.0,
        # The hypernetwork starts from the mean of each base network's zoo, and is level.
        "held_out above hypernetwork": -1.0,
        "held_out_pairs above ridge": 3.0,
        "held_out_pairs above ridge_pairs": 3.0,
        "held_out_pairs above hypernetwork": -1.0,
    },
    "scenes-upernet": {"originals": 55.0, "originals, mAcc": 65.0, "rpg": 0.98, "rpg, mAcc": 0.98},
    "scenes-vitdet": {
        "originals": 48.0,
        "originals, bbox AP50": 65.0,
        "rpg": 0.97,
        "rpg, bbox AP50": 0.97,
        "rpg, segm mAP": 0.97,
    },
    "facts-dora-r4": {
        "originals above base_model": 55.0,
        "originals above base_model, average accuracy (likelihood)": 25.0,
        "rpg": 0.97,
        "rpg min": 0.84,
        "rpg, average accuracy (likelihood)": 0.97,
    },
    "facts-dora-r16": {
        "originals above base_model": 55.0,
        "originals above base_model, average accuracy (likelihood)": 25.0,
        "rpg": 0.97,
        "rpg min": 0.65,
        "rpg, average accuracy (likelihood)": 0.97,
    },
}
HEADING = """
## Are the promises kept?

The recipes of the default experiments promise lower bounds, which hold on every processor that they were measured on.
*originals* is a mean in percent, *A above B* a difference in points, every other measure RPG's mean divided by the
originals' mean for the same tasks. RPG was trained here on {devices}.

"""
KEPT = "All {count} bounds are kept.\n"
BROKEN = "{broken} of {count} bounds are not kept here"
ADVICE = "Do not trust the rows of these experiments."


def quality(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return measure → value of an experiment's test.json, or its entry in results/metrics.json; larger is better.

    `originals` is the originals' mean in percent. For a set of samples (`rpg`, `between`, `seen`, ...) the value is the
    ratio of its mean to the mean of the originals for the same tasks; `rpg` is relative to all originals. `rpg min` is
    the ratio of the worst sample. `A above B` is a difference in points. There are no measures of scores that are no
    percentages, or of which lower is better.
    """
    if not _is_percentage(entry):
        return {}
    original = entry["original"]
    measures = {"originals": original["mean"], "rpg min": entry["rpg"]["min"] / original["mean"]}
    for kind in SETS:
        if kind in entry:
            measures[kind] = entry[kind]["mean"] / entry.get("original_by_set", {}).get(kind, original)["mean"]
            for rival, scores in sorted(entry.get("baselines", {}).items()):
                if kind in scores:
                    measures[f"{kind} above {rival}"] = entry[kind]["mean"] - scores[kind]["mean"]
    for metric, scores in entry.get("others", {}).items():
        if metric in OTHERS:
            measures[f"originals, {metric}"] = scores["original"]["mean"]
            measures[f"rpg, {metric}"] = scores["rpg"]["mean"] / scores["original"]["mean"]
    if "base_model" in entry:
        measures["originals above base_model"] = original["mean"] - entry["base_model"]["mean"]
        likelihood = entry["others"][LIKELIHOOD]
        measures[f"originals above base_model, {LIKELIHOOD}"] = (
            likelihood["original"]["mean"] - likelihood["base_model"]["mean"]
        )
    return measures


@dataclass(frozen=True)
class BrokenPromise:
    """A measure of an experiment that lies below its bound."""

    experiment: str
    measure: str
    value: float
    bound: float

    def __str__(self) -> str:
        return f"{self.experiment}: {self.measure} is {self.value:.4g}, promised is at least {self.bound:.4g}"


def broken_promises(entries: Mapping[str, Mapping[str, Any]], bounds: Bounds) -> list[BrokenPromise]:
    """Return the measures below their bounds; `entries` are those of metrics.json. An experiment may have no bounds."""
    return [
        BrokenPromise(name, measure, value, bound)
        for name, entry in entries.items()
        if name in bounds
        for values in [quality(entry)]
        for measure, bound in bounds[name].items()
        # An experiment without its hypernetwork, for example, lacks a measure.
        if measure in values
        for value in [values[measure]]
        if not value >= bound
    ]


def warning(experiments: Mapping[str, ExperimentResult]) -> list[str]:
    """Return the broken promises as the lines of a warning; [] if all are kept."""
    broken, count = _check(experiments)
    if not broken:
        return []
    return [f"Warning: {BROKEN.format(broken=len(broken), count=count)}. {ADVICE}", *(f"  {one}" for one in broken)]


def promise_section(experiments: Mapping[str, ExperimentResult]) -> str:
    """Return the section of tables.md on the promises; "" without an experiment that has some."""
    broken, count = _check(experiments)
    if not count:
        return ""
    devices = dict.fromkeys(device for entry in experiments.values() for device in entry.devices)
    text = HEADING.format(devices=", ".join(devices) or "an unknown device")
    if not broken:
        return text + KEPT.format(count=count)
    rows = [
        {"network": one.experiment, "measure": one.measure, "here": f"{one.value:.4g}", "promised": f"{one.bound:.4g}"}
        for one in broken
    ]
    return f"{text}**Warning: {BROKEN.format(broken=len(broken), count=count)}.** {ADVICE}\n\n{table(rows)}"


def _check(experiments: Mapping[str, ExperimentResult]) -> tuple[list[BrokenPromise], int]:
    """Return the broken promises, and the number of all promises to these experiments."""
    entries = {name: entry.tree() for name, entry in experiments.items()}
    count = sum(len(PROMISES[name]) for name, entry in entries.items() if name in PROMISES and _is_percentage(entry))
    return broken_promises(entries, PROMISES), count


def _is_percentage(entry: Mapping[str, Any]) -> bool:
    """Return whether the promises speak of an entry's metric: a percentage of which higher is better."""
    return Measured.model_validate(entry).metric_kind == PERCENT
