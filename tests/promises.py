"""What tests assert of generated networks: the bounds of the reduced main job, and numbers of networks.

rpg/reports/promises.py has the bounds of the whole main job. docs/testing.md has the rule for both.
"""

from collections.abc import Mapping
from typing import Any

from rpg.reports.promises import SETS, Bounds

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
