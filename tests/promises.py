"""What the README promises of generated networks, as bounds that hold on any processor.

A bound is the least that a measure of `benchmarks.robustness.quality` may be. `python -m benchmarks robustness`
measures it with three training seeds in two arithmetics. docs/testing.md has the rule by which a bound follows from
these six.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.robustness import SETS, quality

Bounds = Mapping[str, Mapping[str, float]]

# The whole main job.
FULL: Bounds = {
    "digits-resnet": {"originals": 96.0, "rpg": 0.98, "rpg min": 0.95},
    "digits-vit": {"originals": 93.0, "rpg": 0.98, "rpg min": 0.95, "between": 0.84, "between above untuned": 40.0},
    "digits-convnext": {
        "originals": 96.0,
        "rpg": 0.98,
        "rpg min": 0.95,
        "between": 0.85,
        "between above untuned": 20.0,
    },
    "digits-tasks": {
        "originals": 98.0,
        "seen": 0.985,
        "held_out": 0.985,
        "rpg min": 0.95,
        "held_out above majority_class": 30.0,
        "held_out above mean_network": 40.0,
        "held_out above nearest_task": 8.0,
        "held_out above ridge": 3.5,
        "held_out above ridge_pairs": 0.2,
        # The hypernetwork starts from the zoo's mean, too, and is level; the base network alone is better than both.
        "held_out above hypernetwork": -1.0,
        "held_out above base_probe": -1.0,
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
        "originals above base_model": 60.0,
        "originals above base_model, average accuracy (likelihood)": 30.0,
        "rpg": 0.97,
        "rpg min": 0.88,
        "rpg, average accuracy (likelihood)": 0.97,
    },
    "facts-dora-r16": {
        "originals above base_model": 60.0,
        "originals above base_model, average accuracy (likelihood)": 30.0,
        "rpg": 0.97,
        "rpg min": 0.88,
        "rpg, average accuracy (likelihood)": 0.97,
    },
}
# The main job with tests/reduced.yaml.
REDUCED: Bounds = {
    "digits-convnext": {"originals": 93.0, "rpg": 0.95, "rpg min": 0.90, "between": 0.87},
    "digits-tasks": {
        "originals": 90.0,
        "seen": 0.95,
        "held_out": 0.88,
        "rpg min": 0.75,
        "held_out above nearest_task": 4.0,
        "held_out above majority_class": 25.0,
    },
    "scenes-upernet": {"originals": 11.0, "rpg": 0.90, "rpg, mAcc": 0.92},
    "scenes-vitdet": {"originals": 10.0, "rpg": 0.75, "rpg, bbox AP50": 0.80, "rpg, segm mAP": 0.75},
    "facts-dora-r4": {
        "originals above base_model": 10.0,
        "rpg": 0.92,
        "rpg min": 0.85,
        "rpg, average accuracy (likelihood)": 0.92,
    },
}


def broken(tree: Mapping[str, Any], bounds: Bounds) -> list[str]:
    """The promises that results/metrics.json `tree` breaks, a line each; KeyError for an experiment without bounds."""
    found = []
    for name, entry in tree["experiments"].items():
        values = quality(entry)
        found += [
            f"{name}: {measure} is {values[measure]:.4f}, promised is {least}"
            for measure, least in bounds[name].items()
            if not values[measure] >= least
        ]
    return found


def counts(tree: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Experiment → how many originals, and samples of each set, its means are over, and how many other metrics it has.

    A processor changes none of them.
    """
    return {
        name: {
            **{kind: entry[kind]["n"] for kind in ("original", *SETS) if kind in entry},
            **({"others": len(entry["others"])} if "others" in entry else {}),
        }
        for name, entry in tree["experiments"].items()
    }
