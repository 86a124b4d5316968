"""The exceptions that a user is meant to see."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: one line that names the file or key, what is wrong and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """`text` for a terminal: names of files and tensors, which it may quote, hold line ends and codes that move it."""
    line = " ".join(text.split())
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)


class Diverged(UserError):
    """A training whose loss or weights are no longer finite, or have left all bounds."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that is close to it, or else all known names.

    It is empty where no name is known.
    """
    names = list(known)
    if not names:
        return ""
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(names))}"
