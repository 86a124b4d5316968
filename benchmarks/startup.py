"""Measure the start of commands: `python -m benchmarks startup`."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import report

# Short stages on the digits, scenes and facts, which spend most of their time on imports.
COMMANDS = (
    ("--help",),
    ("collect", "--experiment", "digits-vit"),
    ("tokens", "--experiment", "digits-vit"),
    ("sample", "--experiment", "digits-vit"),
    ("sample", "--experiment", "scenes-upernet"),
    ("sample", "--experiment", "facts-dora-r4"),
)


def measure_startup(rounds: int, out: Path) -> list[dict[str, Any]]:
    """Print and write the seconds of whole commands, with files and modules in the page cache."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # Work on copies, because a stage run by hand overwrites its artifacts.
        shutil.copy("params.yaml", folder)
        for name in sorted({*(words[-1] for words in COMMANDS if len(words) > 1), "facts"}):
            shutil.copytree(Path("results", name), Path(folder, "results", name))
        for words in COMMANDS:
            command, taken = [sys.executable, "-m", "rpg", *words], []
            for count in range(rounds + 1):
                started = time.perf_counter()
                subprocess.run(
                    command, check=True, capture_output=True, cwd=folder, env={**os.environ, "PYTHONPATH": os.getcwd()}
                )
                if count:
                    taken.append(time.perf_counter() - started)
            row = {"command": f"rpg {' '.join(words)}", "seconds": statistics.median(taken)}
            rows.append({**row, "fastest": min(taken), "slowest": max(taken)})
    return report(rows, out)
