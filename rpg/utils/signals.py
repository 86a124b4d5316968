"""Signals that ask a process to end: SIGTERM of a cluster or a shell, SIGINT of Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ASKING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def postponed() -> Iterator[Callable[[], int]]:
    """Until the block ends these signals end nothing; what is yielded tells the number of the last one, 0 if none came.

    Only a process's main thread can use it.
    """
    came = 0

    def note(number: int, _: object) -> None:
        # One may come twice: from a cluster, and from the process that launched several.
        nonlocal came
        came = number

    before = {number: signal.signal(number, note) for number in ASKING}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
