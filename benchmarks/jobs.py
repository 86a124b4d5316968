"""What jobs take here and in an older checkout, both at the same time: `python -m benchmarks jobs --before CHECKOUT`.

One hour of a machine is not like another, and two runs after each other may differ by more than their code does. What
runs at the same time, on one core each, has the same hour.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ratio, report


def compare_jobs(before: Path, words: Sequence[str], rounds: int, out: Path) -> list[dict[str, Any]]:
    """Print and write processor seconds of `rpg` with these words, each a job, from its start to its end.

    Both checkouts need the artifacts that the jobs read; they make their own anew. In each round both change cores.
    """
    checkouts = {"before": before.resolve(), "now": Path.cwd()}
    environments = {name: _environment(checkout) for name, checkout in checkouts.items()}
    cores = sorted(os.sched_getaffinity(0))[:2]
    rows = []
    for job in words:
        seconds: dict[str, list[float]] = {name: [] for name in checkouts}
        for count in range(2 * rounds):
            started = {}
            for name, core in zip(checkouts, cores if count % 2 else reversed(cores), strict=True):
                command = ["taskset", "-c", str(core), sys.executable, "-m", "rpg", *job.split()]
                started[name] = subprocess.Popen(
                    command, cwd=checkouts[name], env=environments[name], stdout=subprocess.DEVNULL
                )
            for name, process in started.items():
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                seconds[name].append(used.ru_utime + used.ru_stime)
            for process in started.values():
                if process.returncode:
                    raise subprocess.CalledProcessError(process.returncode, process.args)
        means = {name: sum(found) / len(found) for name, found in seconds.items()}
        rows.append({"job": job, **means, **ratio(seconds["now"], seconds["before"])})
    return report(rows, out)


def _environment(checkout: Path) -> dict[str, str]:
    """That of the checkout's own rules."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", "from rpg.pipeline.workflow import MALLOC; print(MALLOC)"]
    found = subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {**environment, "GLIBC_TUNABLES": found.stdout.strip()}
