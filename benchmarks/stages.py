"""Sum the seconds of each stage in Snakemake's last run, from logs/: `python -m benchmarks stages`."""

from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common import report


def measure_stages(logs: Path, before: Path | None, out: Path) -> list[dict[str, Any]]:
    """Print and write the wall-clock seconds of each stage, summed over jobs, and those of the run `before`."""
    now = seconds_of(logs)
    columns = {"jobs": now.groupby("stage", sort=False)["seconds"].size()}
    for name, frame in {"seconds before": seconds_of(before) if before else None, "seconds": now}.items():
        if frame is not None:
            columns[name] = frame.groupby("stage", sort=False)["seconds"].sum()
    table = pd.DataFrame(columns).fillna(0)
    table = table.sort_values("seconds", ascending=False)
    table.loc["all"] = table.sum()
    rows: list[dict[str, Any]] = [{"stage": str(stage), **row} for stage, row in table.to_dict("index").items()]
    return report(rows, out)


def seconds_of(logs: Path) -> pd.DataFrame:
    """Return the stage and the seconds of each job."""
    rows = []
    for path in sorted(logs.rglob("*.tsv")):
        # zoo-0000-0007 is a shard of the zoo.
        stage, seconds = path.stem.partition("-")[0], pd.read_csv(path, sep="\t")["s"].item()
        rows.append({"stage": stage, "seconds": float(seconds)})
    return pd.DataFrame(rows)
