"""The runs of a user's zoo: patterns in `zoo.runs`, and the order of names with numbers."""

import glob
import re
from collections.abc import Iterable
from pathlib import Path

WILDCARDS = re.compile(r"[*?[]")


def natural(name: str) -> tuple[list[int | str], str]:
    """Return a sort key that compares numbers in a name by value: epoch-9 comes before epoch-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def is_pattern(entry: str) -> bool:
    """Return whether an entry of `zoo.runs` has wildcards and is not the name of a file or folder."""
    return bool(WILDCARDS.search(entry)) and not Path(entry).exists()


def expanded(entries: Iterable[str]) -> list[str]:
    """Return `entries` with each pattern replaced by the files and folders that it matches, in natural order.

    `**` matches any number of folders. A pattern without a match stays as it is: the zoo stage reports it, and other
    experiments of params.yaml can still run.
    """
    runs: list[str] = []
    for entry in entries:
        matches = {str(Path(match)) for match in glob.iglob(entry, recursive=True)} if is_pattern(entry) else ()
        runs += sorted(matches, key=natural) or [entry]
    return runs
