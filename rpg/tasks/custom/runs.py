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


def run_of(path: str, state_from: str) -> str | None:
    """Return the name of a checkpoint's run: the groups of `state_from`'s first match in its path, joined by dashes.

    A pattern without groups gives the whole match. None if nothing matches.
    """
    found = re.search(state_from, path)
    return None if found is None else "-".join(filter(None, found.groups())) if found.re.groups else found[0]


def grouped(paths: Iterable[str], state_from: str | None) -> dict[str, list[str]]:
    """Return run → its paths; without `state_from` each path is a run.

    A path in which `state_from` does not match is a run, too: the zoo stage reports it.
    """
    runs: dict[str, list[str]] = {}
    for path in paths:
        runs.setdefault(path if state_from is None else run_of(path, state_from) or path, []).append(path)
    return dict(sorted(runs.items(), key=lambda run: natural(run[0]))) if state_from else runs
