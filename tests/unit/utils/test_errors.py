"""Errors that a user sees are one line, and name what was meant."""

import pytest

from rpg.utils.errors import Diverged, UserError, counted, one_line, suggestion


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("trian", ["train", "tune"], "; did you mean 'train'?"),
        ("x", ["train", "sample"], "; known: sample, train"),
        ("x", iter(["one"]), "; known: one"),
        ("x", [], ""),
    ],
)
def test_suggestion(name: str, known, text: str) -> None:
    assert suggestion(name, known) == text


def test_one_of_a_thing_has_no_plural() -> None:
    assert [counted(count, "file") for count in (0, 1, 2, 12345)] == ["0 files", "1 file", "2 files", "12,345 files"]


def test_messages_are_one_printable_line() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"
    assert str(UserError("params.yaml:\nno")) == "params.yaml: no"
    assert issubclass(Diverged, UserError)
