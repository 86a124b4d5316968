"""Measure the planning of many shards and experiments: seconds and memory of `snakemake -n` over the number of jobs.

The plan is for a copy of this checkout with several copies of one experiment, each with several shards of one seed.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from benchmarks.common import copy_workflow
from rpg.config.loading import load_params

# Pairs of the number of experiments and the number of shards per experiment.
SHAPES = ((1, 10), (10, 10), (100, 10), (100, 100), (1, 10_000))


def measure_dag(experiment: str, shapes: list[str], out: Path, plot: Path) -> None:
    """Plan each of `shapes`, written EXPERIMENTSxSHARDS; print, write and plot jobs, seconds and memory."""
    rows = []
    for shape in shapes:
        experiments, shards = map(int, shape.split("x"))
        rows.append({"experiments": experiments, "shards of each": shards, **plan(experiment, experiments, shards)})
        print(rows[-1], flush=True)
    out.write_text(json.dumps(rows, indent=2) + "\n")
    frame = pd.DataFrame(rows)
    print(frame.to_markdown(index=False, floatfmt=".1f"))
    draw(frame).savefig(plot, metadata={"Date": None})


def plan(experiment: str, experiments: int, shards: int) -> dict[str, Any]:
    """Return jobs, seconds and GB of a dry run without artifacts."""
    params = load_params()
    block = params.experiment(experiment).model_dump(mode="json", exclude_unset=True)
    block["zoo"] |= {"seeds": list(range(shards)), "runs_per_shard": 1}
    names = [f"copy-{index}" for index in range(experiments)]
    tree = {**params.model_dump(mode="json"), "run": names, "ablations": {}, "joint": {}}
    tree["experiments"] = dict.fromkeys(names, block)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_workflow(folder)
        # Write out each copy without YAML aliases, as a person would.
        (folder / "params.yaml").write_text(yaml.dump(tree, Dumper=_Plain))
        began = time.perf_counter()
        command = ["snakemake", "-n", "--quiet", "rules", "--", "results/tables.md"]
        with (folder / "output").open("w+") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
            # Not the child's resource usage, because it includes the memory of the forked parent.
            peak = 0
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                peak = max(peak, _peak(process.pid))
                time.sleep(0.05)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
            output.seek(0)
            text = output.read()
    assert status == 0, text
    jobs = int(next(line for line in text.splitlines() if line.startswith("total")).split()[1])
    processor = usage.ru_utime + usage.ru_stime
    return {"jobs": jobs, "seconds": seconds, "processor seconds": processor, "GB": peak / 2**20}


def _peak(process: int) -> int:
    """Return the peak memory of a process in KiB; 0 after its end."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def draw(frame: pd.DataFrame) -> Figure:
    """Plot seconds and GB over the number of jobs."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    frame = frame.sort_values("jobs")
    for axes, column in zip(figure.subplots(1, 2), ("seconds", "GB"), strict=True):
        axes.plot(frame["jobs"], frame[column], "o-")
        for _, row in frame.iterrows():
            text = f"{row['experiments']:.0f} × {row['shards of each']:.0f}"
            axes.annotate(text, (row["jobs"], row[column]), xytext=(6, -8), textcoords="offset points", fontsize=7)
        axes.set(
            xlabel="jobs (experiments × shards of each)", ylabel=column, xlim=(0, 1.25 * frame["jobs"].max()), ylim=0
        )
        axes.grid(alpha=0.3)
    return figure
