"""Exceptions whose message is for the user."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: one line that names the file or key, the fault and the remedy.

    The command line prints the line without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def counted(count: int, noun: str) -> str:
    """Return a text like "1 file" or "2,000 files", for nouns with a plural in s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def one_line(text: str) -> str:
    """Return `text` as one printable line.

    `text` may quote names of files and tensors, which can hold line ends and terminal control codes.
    """
    line = " ".join(text.split())
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)


class Diverged(UserError):
    """A training diverged: its loss or weights are no longer finite, or exceed all bounds."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known name, or else all known names.

    The text is empty if no name is known.
    """
    names = list(known)
    if not names:
        return ""
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(names))}"
