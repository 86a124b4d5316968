import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from rpg.utils.progress import SILENCE, LastLoss, progress, time_left


def test_log_gets_ten_plain_lines(capsys) -> None:
    assert list(progress(range(25), "train", total=25)) == list(range(25))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "train: 3 of 25"
    assert lines[-1] == "train: 25 of 25"


def test_resumed_work_counts_what_was_done(capsys) -> None:
    list(progress(range(81, 101), "train", total=100, done=80))
    assert capsys.readouterr().err.splitlines() == ["train: 90 of 100", "train: 100 of 100"]


def test_terminal_gets_a_bar_and_every_item(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(5), "train", total=5)) == list(range(5))
    assert "of 5" not in capsys.readouterr().err


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Go through items, each of which takes some seconds by the clock of `progress`."""
    clock = [0.0]
    monkeypatch.setattr("rpg.utils.progress.monotonic", lambda: clock[0])

    def through(seconds: float, items: Iterator[int]) -> None:
        for _ in items:
            clock[0] += seconds

    return through


def test_log_of_long_work_is_never_silent_for_long(capsys, work) -> None:
    """1000 steps of a second: a line every SILENCE seconds and at each tenth, with the loss and the time left."""
    work(1, progress(range(1000), "zoo: seed 0", total=1000, note=lambda: "loss 0.25"))
    lines = capsys.readouterr().err.splitlines()
    # Between two tenths, 100 s, three lines come after 30, 60 and 90 s.
    assert len(lines) == 40
    assert lines[0] == "zoo: seed 0: 30 of 1000, loss 0.25, about 16 min left"
    assert lines[3] == "zoo: seed 0: 100 of 1000, loss 0.25, about 15 min left"
    assert lines[-2] == "zoo: seed 0: 990 of 1000, loss 0.25, about 10 s left"
    assert lines[-1] == "zoo: seed 0: 1000 of 1000, loss 0.25"


def test_without_tenths_short_work_says_nothing(capsys, work) -> None:
    work(1, progress(range(20), "zoo", total=20, tenths=False))
    assert capsys.readouterr().err == ""
    work(SILENCE, progress(range(3), "zoo", total=3, tenths=False))
    assert capsys.readouterr().err.splitlines() == [
        "zoo: 1 of 3, about 60 s left", "zoo: 2 of 3, about 30 s left", "zoo: 3 of 3"
    ]  # fmt: skip


def test_time_left_counts_this_run_alone(capsys, work) -> None:
    """The 80 steps of an earlier run took none of this run's time."""
    work(10, progress(range(20), "train", total=100, done=80, tenths=False))
    assert capsys.readouterr().err.splitlines()[0] == "train: 83 of 100, about 3 min left"


def test_bars_within_bars(capsys, monkeypatch) -> None:
    """A group of runs and the steps of one of them: rich 15.0.0 shows both; releases before 14.1 raise."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    seen = [step for group in progress(range(2), "zoo", 2) for step in progress(range(3), f"zoo: seed {group}", 3)]
    assert seen == [0, 1, 2, 0, 1, 2]


def test_time_left_in_words() -> None:
    assert [time_left(seconds) for seconds in (0.2, 90, 91, 3600)] == [
        "about 1 s left", "about 90 s left", "about 2 min left", "about 60 min left"
    ]  # fmt: skip


def test_last_loss_is_the_mean_of_the_last_step() -> None:
    loss = LastLoss()
    assert loss() == ""
    loss.of(torch.tensor([4.0]))
    loss.of(torch.tensor([0.25, 0.75], requires_grad=True) * 1.0)
    assert loss() == "loss 0.5"
    assert not loss.losses.requires_grad
