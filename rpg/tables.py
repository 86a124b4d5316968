"""The tables of all experiments in `run:`: `rpg tables`.

Writes results/tables.md, metrics.json and scores.csv (one row per network), the same bytes in every run, and
results/seconds.json and seconds.md, the measured times. Numbers are over all samples and all originals.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rpg.files import read_json, write_json, write_text
from rpg.params import Params
from rpg.paths import Paths

HEADING = """# Generated networks beside the originals they learned from

{metrics} in percent on the test split, over all n networks; ± is the standard deviation.

"""

# In the order of the table; an experiment may lack some.
METHODS = {
    "original": "trained for the task",
    "rpg": "RPG",
    "untuned": "RPG, not tuned",
    "hypernetwork": "hypernetwork, task loss only",
    "ridge_pairs": "ridge regression, pairs of bits",
    "ridge": "ridge regression, bits",
    "nearest_task": "weights of the nearest seen task",
    "mean_network": "mean of the seen networks",
    "majority_class": "majority class",
}
SECONDS = {
    "train": "RPG training seconds",
    "tune": "tuning seconds",
    "hypernetwork": "hypernetwork seconds",
    "sample": "seconds per sample",
}
SETS = {"seen": "seen", "held_out_pairs": "held-out pairs", "held_out": "held-out"}


def metrics(params: Params, results: Path) -> dict[str, Any]:
    """metrics.json: one entry per experiment in `run:`, its own metrics.json and its task."""
    experiments = {
        name: {
            "task": params.experiment(name).task.kind,
            **read_json(
                Paths(name, results).metrics,
                f"rpg score --experiment {name}",
                *("metric", "parameters", "original", "rpg"),
            ),
        }
        for name in params.run
    }
    return {"experiments": experiments}


def scores(params: Params, results: Path) -> pd.DataFrame:
    """scores.csv: one row per network, original or RPG, of every experiment in `run:`, with its scores in percent."""
    rows = [
        {"experiment": name, "networks": networks, **{key: entry[key] for key in ("file", "validation", "test")}}
        for name in params.run
        for kind, networks in (("original", "original"), ("rpg", "RPG"))
        for entry in read_json(Paths(name, results).scores, f"rpg score --experiment {name}", "original", "rpg")[kind]
    ]
    return pd.DataFrame(rows)


def seconds(params: Params, results: Path) -> dict[str, Any]:
    """seconds.json: seconds of each training and seconds per sample, as they were measured."""
    experiments = {
        name: {
            "seconds": {
                layer: read_json(Paths(name, results).seconds(layer), f"rpg {layer}", "seconds")["seconds"]
                for layer in params.experiment(name).timed()
            }
        }
        for name in params.run
    }
    return {"experiments": experiments}


def markdown(tree: dict[str, Any]) -> str:
    """tables.md from metrics.json, in the columns of the paper's Table 1."""
    rows = [
        {
            "network": name,
            "parameters": f"{entry['parameters']:,}",
            "original mean ± std": f"{entry['original']['mean']:.2f} ± {entry['original']['std']:.2f}",
            "original best": f"{entry['original']['best']:.2f}",
            "original n": entry["original"]["n"],
            "RPG mean ± std": f"{entry['rpg']['mean']:.2f} ± {entry['rpg']['std']:.2f}",
            "RPG min": f"{entry['rpg']['min']:.2f}",
            "RPG best": f"{entry['rpg']['best']:.2f}",
            "RPG n": entry["rpg"]["n"],
        }
        for name, entry in tree["experiments"].items()
    ]
    names = sorted({entry["metric"] for entry in tree["experiments"].values()})
    return (
        HEADING.format(metrics=", ".join(names))
        + table(rows)
        + "".join(unseen_tasks(name, entry) for name, entry in tree["experiments"].items() if "held_out" in entry)
    )


def unseen_tasks(name: str, entry: dict[str, Any]) -> str:
    """The section of an experiment with task codes: the networks trained for the task, RPG, and every baseline."""
    kinds = {"original": entry["original_by_set"], "rpg": entry, **entry["baselines"]}
    sets = [key for key in SETS if key in entry]

    def row(kind: str, of: dict[str, Any]) -> dict[str, Any]:
        cells = {"networks": METHODS[kind]}
        for key in sets:
            cells |= {
                f"{SETS[key]} mean ± std": f"{of[key]['mean']:.2f} ± {of[key]['std']:.2f}",
                f"{SETS[key]} min": f"{of[key]['min']:.2f}",
                f"{SETS[key]} best": f"{of[key]['best']:.2f}",
                f"{SETS[key]} n": of[key]["n"],
            }
        return cells

    rows = [row(kind, kinds[kind]) for kind in METHODS if kind in kinds]
    return f"\n## {name}: tasks seen and never seen\n\n{table(rows)}"


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, numbers to the right."""
    frame = pd.DataFrame(rows)
    return (
        frame.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (frame.shape[1] - 1))
        + "\n"
    )


def write_tables(params: Params, results: Path, into: Path | None = None) -> None:
    """Write tables.md, metrics.json, scores.csv, seconds.json and seconds.md into the folder `into`, or `results`."""
    into = into or results
    tree = metrics(params, results)
    write_text(into / "tables.md", markdown(tree))
    write_json(into / "metrics.json", tree)
    write_text(into / "scores.csv", scores(params, results).to_csv(index=False))
    times = seconds(params, results)
    write_json(into / "seconds.json", times)
    rows = [
        {
            "network": name,
            **{
                column: f"{entry['seconds'][layer]:.3f}" if layer in entry["seconds"] else ""
                for layer, column in SECONDS.items()
            },
        }
        for name, entry in times["experiments"].items()
    ]
    write_text(into / "seconds.md", "# Measured times\n\n" + table(rows))
