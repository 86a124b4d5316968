"""What the benchmarks share: turns, where they run, what they print."""

import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

ROOT = Path(__file__).parent.parent


def copy_workflow(folder: Path) -> None:
    """Put what Snakemake needs of the workflow into `folder`, but for params.yaml; what stands there is overwritten."""
    for name in ("workflow", "rpg"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    if not (folder / "profiles").is_symlink():
        (folder / "profiles").symlink_to("workflow/profiles")


def machine() -> dict[str, Any]:
    """What the numbers are of: processor, GPU, versions, date."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: version(name) for name in ("torch", "timm")},
        "date": date.today().isoformat(),
    }


def synchronised() -> float:
    """Seconds by the clock, when all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each of `ways` takes in each round, one after the other, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(rounds + 1):
        for name, way in ways.items():
            started = synchronised()
            way()
            if count:
                seconds[name].append(synchronised() - started)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of the rounds' ratios."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return {"ratio": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}


def report(rows: Sequence[dict[str, Any]], out: Path, **facts: Any) -> list[dict[str, Any]]:
    """Print a table of the rows; write them, and where they were measured, as JSON; the rows."""
    print(tabulate(rows, "keys", tablefmt="pipe", floatfmt=".4g", missingval=""), flush=True)
    out.write_text(json.dumps({**machine(), **facts, "rows": list(rows)}, indent=2) + "\n")
    return list(rows)
