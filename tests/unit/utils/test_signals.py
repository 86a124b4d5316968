import os
import signal

import pytest

from rpg.utils.signals import postponed


def test_signals_are_told_and_end_nothing_until_the_block_ends() -> None:
    # What a process in the background was started with ignores Ctrl-C.
    given = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with postponed() as signalled:
        assert signalled() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert signalled() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        assert signalled() == signal.SIGINT
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, given)
