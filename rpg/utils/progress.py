"""Show progress: a bar on a terminal, plain lines in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LINES = 10


def progress(items: Iterable[Item], label: str, total: int, done: int = 0) -> Iterator[Item]:
    """Yield `items` and show how many of `total` are done; `done` counts items that an earlier run finished."""
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            for item in items:
                yield item
                bar.advance(task)
        return
    for count, item in enumerate(items, done + 1):
        yield item
        if count * LINES // total > (count - 1) * LINES // total:
            print(f"{label}: {count} of {total}", file=sys.stderr, flush=True)
