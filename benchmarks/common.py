"""Shared functions of the benchmarks: timing in turns, facts about the machine, output."""

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
    """Copy the workflow's files, except params.yaml, into `folder` and overwrite existing ones."""
    for name in ("workflow", "rpg"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    if not (folder / "profiles").is_symlink():
        (folder / "profiles").symlink_to("workflow/profiles")


def machine() -> dict[str, Any]:
    """Return the processor, the GPU, versions and the date of a measurement."""
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


def synchronized_time() -> float:
    """Wait for the GPU, then return the clock in seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run all `ways` one after another in each round; return the seconds of each, without the first warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(rounds + 1):
        for name, way in ways.items():
            started = synchronized_time()
            way()
            if count:
                seconds[name].append(synchronized_time() - started)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest of the rounds' ratios slow / fast."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    return {"ratio": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}


def report(rows: Sequence[dict[str, Any]], out: Path, **facts: Any) -> list[dict[str, Any]]:
    """Print the rows as a table, write them as JSON with facts about the machine, and return them."""
    print(tabulate(rows, "keys", tablefmt="pipe", floatfmt=".4g", missingval=""), flush=True)
    out.write_text(json.dumps({**machine(), **facts, "rows": list(rows)}, indent=2) + "\n")
    return list(rows)
