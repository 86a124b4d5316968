"""The kind of a metric: its unit, and the direction in which it is better."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricKind:
    """The unit of a metric's scores, such as dB or "" for none, and whether a lower score is better.

    A percentage lies between 0 and 100. A score in another unit may be any finite number.
    """

    unit: str = "percent"
    lower_is_better: bool = False

    @property
    def is_percent(self) -> bool:
        """Whether the scores are percentages."""
        return self.unit == "percent"

    @property
    def most(self) -> float:
        """The largest possible score."""
        return 100.0 if self.is_percent else math.inf

    def tree(self) -> dict[str, Any]:
        """Return the keys for a JSON file: those that differ from a percentage of which higher is better."""
        return {name: value for name, value in vars(self).items() if value != getattr(PERCENT, name)}

    def rank(self, score: float) -> float:
        """Return a number that is larger for a better score."""
        return -score if self.lower_is_better else score

    def best(self, scores: Iterable[float]) -> float:
        """Return the best score."""
        return max(scores, key=self.rank)

    def worst(self, scores: Iterable[float]) -> float:
        """Return the worst score."""
        return min(scores, key=self.rank)

    def relative(self, score: float, reference: float) -> float:
        """Return a score as a share of a reference; 1 is as good, and more is better.

        The share is score / reference, or reference / score if lower is better. It is NaN if either is not positive,
        because a ratio means nothing then. Percentages of which higher is better are never negative, so their share is
        always a number.
        """
        if self == PERCENT:
            # No division by zero where all networks of the reference fail.
            return score / max(reference, 1e-9)
        if not (score > 0 and reference > 0):
            return math.nan
        return reference / score if self.lower_is_better else score / reference

    def rounded(self, score: float) -> float:
        """Return a score as JSON files keep it: a percentage to 4 decimals, others to 6 significant digits."""
        return round(score, 4) if self.is_percent else float(f"{score:.6g}")

    def text(self, score: float, sign: str = "") -> str:
        """Return a score as tables show it: a percentage with 2 decimals, others with 4 significant digits.

        `sign`: "+" shows the sign of positive numbers, too.
        """
        return f"{score:{sign}.2f}" if self.is_percent else f"{score:{sign}#.4g}".rstrip(".")

    def with_unit(self, score: float) -> str:
        """Return `text` with the unit; a percentage stays without."""
        return self.text(score) if self.is_percent else f"{self.text(score)} {self.unit}".rstrip()

    @property
    def in_unit(self) -> str:
        """The unit in a sentence: "in percent", "in dB" or "without a unit"."""
        return f"in {self.unit}" if self.unit else "without a unit"

    def label(self, metric: str) -> str:
        """Return the metric's name in a table, with whatever differs from a percentage of which higher is better."""
        facts = [] if self.is_percent else [self.unit]
        facts += ["lower is better"] if self.lower_is_better else []
        text = ", ".join(filter(None, facts))
        return f"{metric} ({text})" if text else metric


PERCENT = MetricKind()
# Of networks without a score: a distance from the zoo, in standard deviations of a tensor's weights.
DISTANCE = MetricKind("standard deviations", lower_is_better=True)
