"""Measure the start of commands: `python -m benchmarks startup`.

The commands take turns in each round, with files and modules in the page cache. The import of torch is the measure:
most commands need it, and a packed generator does not.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, report

# Short stages on the digits, scenes and facts, which spend most of their time on imports.
STAGES = (
    ("collect", "--experiment", "digits-vit"),
    ("tokens", "--experiment", "digits-vit"),
    ("sample", "--experiment", "digits-vit"),
    ("sample", "--experiment", "scenes-upernet"),
    ("sample", "--experiment", "facts-dora-r4"),
)
PACKED = "digits-tasks"
REQUEST = ("--classes", "3,8", "--seed", "1", "--out", "new.safetensors")
GENERATE = (
    ("generate", "--experiment", PACKED, *REQUEST),
    ("generate", "--generator", "packed", "--runtime", "torch", *REQUEST),
    ("generate", "--generator", "packed", *REQUEST),
)
TORCH = "python -c 'import torch'"


def measure_startup(rounds: int, out: Path) -> list[dict[str, Any]]:
    """Print and write seconds and peak memory of whole commands, and both as multiples of the import of torch."""
    rpg = [sys.executable, "-m", "rpg"]
    commands = {TORCH: [sys.executable, "-c", "import torch"]}
    commands |= {f"rpg {' '.join(words)}": [*rpg, *words] for words in (("--help",), *GENERATE, *STAGES)}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    peaks = dict.fromkeys(commands, 0)
    with tempfile.TemporaryDirectory() as folder:
        # Work on copies, because a stage run by hand overwrites its artifacts.
        shutil.copy("params.yaml", folder)
        for name in sorted({*(words[-1] for words in STAGES), PACKED, "facts"}):
            shutil.copytree(Path("results", name), Path(folder, "results", name))
        _run([*rpg, "pack", "--experiment", PACKED, "--out", "packed"], folder)
        for count in range(rounds + 1):
            for name, command in commands.items():
                seconds, peak = _run(command, folder)
                peaks[name] = max(peaks[name], peak)
                if count:
                    taken[name].append(seconds)
    seconds_of = {name: statistics.median(times) for name, times in taken.items()}
    rows = [
        {
            "command": name,
            "seconds": seconds_of[name],
            "fastest": min(times),
            "slowest": max(times),
            "× import torch": seconds_of[name] / seconds_of[TORCH],
            "peak MB": peaks[name] / 1e6,
            "× its memory": peaks[name] / peaks[TORCH],
        }
        for name, times in taken.items()
    ]
    return report(rows, out)


# A process starts with the memory of the one that starts it, so a small one starts the commands.
MEASURE = """
import os, sys, time
started = time.perf_counter()
child = os.fork()
if not child:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
print(time.perf_counter() - started, used.ru_maxrss * 1024)
sys.exit(status)
"""


def _run(command: list[str], folder: str) -> tuple[float, int]:
    """Run a command in `folder`; return its seconds and the peak of its memory in bytes."""
    small = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(small, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)
