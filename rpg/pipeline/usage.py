"""What a job of Snakemake used: seconds, processor seconds and memory."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The environment variable with the path of the file.
USAGE = "RPG_USAGE"


@contextmanager
def recorded() -> Iterator[None]:
    """Write the usage of this process and its children during the block into the file that USAGE names, if any.

    Columns, as in Snakemake's benchmark files: `s` seconds, `cpu_time` processor seconds, `max_rss` megabytes of the
    largest process. Snakemake measures the processes below a rule's shell, and a fork server's jobs are none of them. A
    block that raises leaves no file.
    """
    started, before = time.perf_counter(), _processor_seconds()
    try:
        yield
    except SystemExit as stop:
        if stop.code:
            raise
    if path := os.environ.get(USAGE):
        largest = max(resource.getrusage(who).ru_maxrss for who in _OWN) / 1024
        columns = {
            "s": time.perf_counter() - started,
            "cpu_time": _processor_seconds() - before,
            "max_rss": largest,
        }
        text = "\t".join(columns) + "\n" + "\t".join(f"{value:.4f}" for value in columns.values()) + "\n"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)


_OWN = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _processor_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, _OWN))
