"""Confidence intervals of mean scores, and of differences between them.

Networks of one training run, or of one task, are not independent, so they form a *group*. An interval is Student's t
over the groups, with G - 1 degrees of freedom: the cluster-robust variance of a mean (Cameron and Miller 2015, section
II). A percentile bootstrap over three to eight groups would cover the true mean in 75 to 89 % of cases, not in 95 %.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t

LEVEL = 0.95


@dataclass(frozen=True)
class ScoreSample:
    """The scores of N networks, and the group of each.

    `trainings` names the training of the generator that made each network; it is empty for networks of one training. A
    group has networks of all trainings. `right` [N, n] tells whether each network answers each of n test examples
    correctly. It is [N, 0] if the score is not the share of correct answers.
    """

    scores: Sequence[float]
    groups: Sequence[Hashable]
    trainings: Sequence[Hashable] = ()
    right: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=bool))


def mean_interval(sample: ScoreSample, most: float = 100.0) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of a sample, cut off at `most`, the largest score; None for a single group.

    The variance is the sum of the variances over groups and over trainings. The degrees of freedom are Satterthwaite's.
    """
    groups = _influence(sample.scores, sample.groups)
    if len(groups) < 2:
        return None
    low, high = _interval(float(np.mean(sample.scores)), [_part(groups), *_of_trainings(sample)])
    return low, min(high, most)


def difference(one: ScoreSample, other: ScoreSample) -> tuple[float, tuple[float, float] | None]:
    """Return the mean of `one` minus the mean of `other`, and its 95 % interval.

    Networks of the same group, and answers to the same example, are paired. The variance is the sum of three: over the
    groups, over the trainings, and, where both samples have answers, over the examples. The interval is None if either
    sample has a single group.
    """
    mean = float(np.mean(one.scores) - np.mean(other.scores))
    ours, theirs = _influence(one.scores, one.groups), _influence(other.scores, other.groups)
    if min(len(ours), len(theirs)) < 2:
        return mean, None
    paired = {group: ours.get(group, 0.0) - theirs.get(group, 0.0) for group in {**ours, **theirs}}
    parts = [(_part(paired)[0], min(len(ours), len(theirs)) - 1), *_of_trainings(one), *_of_trainings(other)]
    if one.right.size and other.right.size:
        gains = 100 * (one.right.mean(0) - other.right.mean(0))
        parts.append((float(gains.var(ddof=1)) / len(gains), len(gains) - 1))
    return mean, _interval(mean, parts)


# A variance of a mean, and its degrees of freedom.
Part = tuple[float, int]


def _interval(mean: float, parts: Sequence[Part]) -> tuple[float, float]:
    variance = sum(part for part, _ in parts)
    if not variance:
        return mean, mean
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    reach = float(t.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(variance))
    return mean - reach, mean + reach


def _influence(scores: Sequence[float], groups: Sequence[Hashable]) -> dict[Hashable, float]:
    """Return group → the sum of its scores' deviations from the mean, divided by the number of all scores."""
    mean = float(np.mean(scores))
    influence: dict[Hashable, float] = {}
    for score, group in zip(scores, groups, strict=True):
        influence[group] = influence.get(group, 0.0) + (score - mean) / len(scores)
    return influence


def _part(influence: Mapping[Hashable, float]) -> Part:
    """Return the variance of a mean over the groups with these influences."""
    count = len(influence)
    return count / (count - 1) * float(np.square(list(influence.values())).sum()), count - 1


def _of_trainings(sample: ScoreSample) -> list[Part]:
    """Return the variance over the trainings, if there are several."""
    influence = _influence(sample.scores, sample.trainings) if sample.trainings else {}
    return [_part(influence)] if len(influence) > 1 else []
