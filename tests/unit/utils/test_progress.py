import sys

from rpg.utils.progress import progress


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
