"""Handle the signals that request a process to end: SIGTERM of a cluster or a shell, SIGINT of Ctrl-C."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def postponed() -> Iterator[Callable[[], int]]:
    """Postpone SIGTERM and SIGINT until the block ends; yield a function that returns the last signal's number, or 0.

    Only a process's main thread can use this context manager.
    """
    received = 0

    def note(number: int, _: object) -> None:
        # A signal may come twice: from the cluster, and from the process that launched this one.
        nonlocal received
        received = number

    before = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
