"""Seconds of each layer, as Snakemake has written them to logs/ in its last run: `python -m benchmarks layers`."""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common import report


def measure_layers(logs: Path, before: Path | None, out: Path) -> list[dict[str, Any]]:
    """Print and write seconds by the clock, added up over the jobs of each layer, beside those of a run `before`."""
    now = seconds_of(logs)
    columns = {"jobs": now.groupby("layer", sort=False)["seconds"].size()}
    for name, frame in {"seconds before": seconds_of(before) if before else None, "seconds": now}.items():
        if frame is not None:
            columns[name] = frame.groupby("layer", sort=False)["seconds"].sum()
    table = pd.DataFrame(columns).fillna(0)
    table = table.sort_values("seconds", ascending=False)
    table.loc["all"] = table.sum()
    rows: list[dict[str, Any]] = [{"layer": str(layer), **row} for layer, row in table.to_dict("index").items()]
    return report(rows, out)


def seconds_of(logs: Path) -> pd.DataFrame:
    """Layer and seconds of each job."""
    rows = []
    for path in sorted(logs.rglob("*.tsv")):
        # zoo-0000-0007 is a shard of the zoo.
        layer, seconds = path.stem.partition("-")[0], pd.read_csv(path, sep="\t")["s"].item()
        rows.append({"layer": layer, "seconds": float(seconds)})
    return pd.DataFrame(rows)
