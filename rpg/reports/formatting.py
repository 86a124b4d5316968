"""Format numbers and rows for the Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rpg.evaluation.score import SETS
from rpg.utils.artifacts import Difference, ScoreSummary, Set


def points(difference: Difference | None) -> str:
    """Format a difference in points and its interval."""
    if difference is None:
        return "-"
    return f"{difference.mean:+.2f}{_brackets(difference.interval, '+.2f')}"


def _brackets(interval: Sequence[float] | None, style: str) -> str:
    return f" [{interval[0]:{style}}, {interval[1]:{style}}]" if interval else ""


def mean(summary: ScoreSummary) -> str:
    """Format mean ± standard deviation and the mean's interval, if there is one."""
    return f"{summary.mean:.2f} ± {summary.std:.2f}{_brackets(summary.interval, '.2f')}"


def label_set(name: str, key: Set) -> str:
    """Append the name of a set of networks to `name`, except for the set of all networks."""
    return name if key == "all" else f"{name}, {SETS[key]}"


def join_medians(column: str, digits: int, *medians: Mapping[str, float | None]) -> str:
    """Format one column of several medians, separated by " / ", with a dash for a missing median."""
    numbers = [values.get(column) for values in medians]
    return " / ".join("-" if number is None else f"{number:.{digits}f}" for number in numbers)


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows as a Markdown table, with all columns but the first aligned to the right."""
    frame = pd.DataFrame(rows)
    return (
        frame.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (frame.shape[1] - 1))
        + "\n"
    )
