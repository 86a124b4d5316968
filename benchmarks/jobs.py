"""Compare jobs here and in an older checkout at the same time: `python -m benchmarks jobs --before CHECKOUT`.

A machine's speed varies over time, so two runs one after another may differ by more than their code. Jobs at the same
time, on one core each, run under the same load.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ratio, report


def compare_jobs(before: Path, words: Sequence[str], rounds: int, out: Path) -> list[dict[str, Any]]:
    """Print and write the CPU seconds of each job, an `rpg` command with the arguments in `words`.

    Both checkouts need the jobs' input artifacts; the jobs overwrite their outputs. The checkouts swap cores in each
    round.
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
        means = {name: sum(times) / len(times) for name, times in seconds.items()}
        rows.append({"job": job, **means, **ratio(seconds["now"], seconds["before"])})
    return report(rows, out)


def _environment(checkout: Path) -> dict[str, str]:
    """Return the environment of the jobs in a checkout, with the allocator settings of this checkout's rules."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", "from rpg.pipeline.workflow import MALLOC; print(MALLOC)"]
    done = subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {**environment, "GLIBC_TUNABLES": done.stdout.strip()}
