"""Format numbers and rows for the Markdown tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rpg.evaluation.score import SETS
from rpg.utils.artifacts import Difference, ScoreSummary, Set
from rpg.utils.metric import PERCENT, MetricKind


def points(difference: Difference | None, kind: MetricKind = PERCENT) -> str:
    """Format a difference, in points or in the metric's unit, and its interval."""
    if difference is None:
        return "-"
    return f"{kind.text(difference.mean, '+')}{_brackets(difference.interval, kind, '+')}"


def outcome(above: Difference, kind: MetricKind = PERCENT) -> str:
    """Return who wins, if RPG's scores minus a rival's are `above`; without an interval, nobody does."""
    low, high = sorted(map(kind.rank, above.interval or (-math.inf, math.inf)))
    return "RPG wins" if low > 0 else "RPG loses" if high < 0 else "neither wins"


def _brackets(interval: Sequence[float] | None, kind: MetricKind, sign: str = "") -> str:
    return f" [{kind.text(interval[0], sign)}, {kind.text(interval[1], sign)}]" if interval else ""


def mean(summary: ScoreSummary, kind: MetricKind = PERCENT) -> str:
    """Format mean ± standard deviation and the mean's interval, if there is one."""
    return f"{kind.text(summary.mean)} ± {kind.text(summary.std)}{_brackets(summary.interval, kind)}"


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
