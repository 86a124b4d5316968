"""The tables of all experiments in `run:`: `rpg tables`.

Writes results/tables.md and metrics.json, the same bytes in every run, and results/seconds.json and seconds.md, the
measured times. Numbers are over all samples and all originals; the standard deviation is the sample's (n - 1).
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


def metrics(params: Params, results: Path) -> dict[str, Any]:
    """metrics.json: one entry per experiment in `run:`."""
    experiments = {}
    for name in params.run:
        scores = read_json(
            Paths(name, results).scores, f"rpg score --experiment {name}", "metric", "parameters", "original", "rpg"
        )
        experiments[name] = {
            "task": params.experiment(name).task.kind,
            "metric": scores["metric"],
            "parameters": scores["parameters"],
            **{kind: summary([network["test"] for network in scores[kind]]) for kind in ("original", "rpg")},
        }
    return {"experiments": experiments}


def seconds(params: Params, results: Path) -> dict[str, Any]:
    """seconds.json: seconds of training RPG and seconds per sample, as they were measured."""
    experiments = {
        name: {
            "seconds": {
                layer: read_json(Paths(name, results).seconds(layer), f"rpg {layer}", "seconds")["seconds"]
                for layer in ("train", "sample")
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
    return HEADING.format(metrics=", ".join(names)) + table(rows)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, numbers to the right."""
    frame = pd.DataFrame(rows)
    return (
        frame.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (frame.shape[1] - 1))
        + "\n"
    )


def write_tables(params: Params, results: Path) -> None:
    """Write tables.md, metrics.json, seconds.json and seconds.md into `results`."""
    tree = metrics(params, results)
    write_text(results / "tables.md", markdown(tree))
    write_json(results / "metrics.json", tree)
    times = seconds(params, results)
    write_json(results / "seconds.json", times)
    rows = [
        {"network": name, "RPG training seconds": f"{s['train']:.1f}", "seconds per sample": f"{s['sample']:.3f}"}
        for name, s in ((name, entry["seconds"]) for name, entry in times["experiments"].items())
    ]
    write_text(results / "seconds.md", "# Measured times\n\n" + table(rows))
