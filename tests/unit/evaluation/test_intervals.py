"""The intervals cover what they say: simulated with the numbers of runs that the experiments have."""

import numpy as np
import pytest
from scipy.stats import bootstrap, t

from rpg.evaluation.intervals import ScoreSample, difference, mean_interval


def simulated(runs: int, saves: int, draw: np.random.Generator) -> tuple[list[float], list[int]]:
    """Scores about 90 of `runs` runs with `saves` saves each: runs differ by 1, the saves of a run by 0.3."""
    scores = 90 + draw.normal(0, 1, (runs, 1)) + draw.normal(0, 0.3, (runs, saves))
    return scores.ravel().tolist(), np.repeat(np.arange(runs), saves).tolist()


@pytest.mark.parametrize("runs", [2, 3, 6, 8])
def test_the_interval_of_a_mean_covers_95_percent(runs: int) -> None:
    draw = np.random.default_rng(runs)
    trials = 4000
    hits = 0
    for _ in range(trials):
        low, high = mean_interval(ScoreSample(*simulated(runs, 5, draw))) or (0, 0)
        hits += low <= 90 <= high
    # Four standard errors of the simulation are 1.4 points.
    assert hits / trials == pytest.approx(0.95, abs=0.014)


def test_the_interval_covers_the_trainings_too() -> None:
    """Three trainings of a generator differ by 1, its networks for 20 tasks by 0.5."""
    draw = np.random.default_rng(0)
    hits, trials = 0, 3000
    for _ in range(trials):
        scores = 90 + draw.normal(0, 1, (3, 1)) + draw.normal(0, 0.5, (1, 20)) + draw.normal(0, 0.3, (3, 20))
        trainings, tasks = np.repeat(np.arange(3), 20).tolist(), np.tile(np.arange(20), 3).tolist()
        low, high = mean_interval(ScoreSample(scores.ravel().tolist(), tasks, trainings)) or (0, 0)
        hits += low <= 90 <= high
    assert hits / trials == pytest.approx(0.95, abs=0.02)


def test_a_percentile_bootstrap_of_three_runs_would_not() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        means = np.reshape(simulated(3, 5, draw)[0], (3, 5)).mean(1)
        found = bootstrap((means,), np.mean, n_resamples=300, method="percentile", rng=np.random.default_rng(0))
        hits += found.confidence_interval.low <= 90 <= found.confidence_interval.high
    assert hits / 400 < 0.82


def test_equal_groups_have_student_s_interval_of_their_means() -> None:
    scores, groups = [90.0, 92.0, 93.0, 95.0, 97.0, 97.0], [0, 0, 1, 1, 2, 2]
    means = np.array([91.0, 94.0, 97.0])
    reach = t.ppf(0.975, 2) * means.std(ddof=1) / np.sqrt(3)
    low, high = mean_interval(ScoreSample(scores, groups)) or (0, 0)
    assert (low, high) == pytest.approx((94 - reach, 100.0))
    assert 94 + reach > 100


def test_one_group_has_no_interval() -> None:
    assert mean_interval(ScoreSample([90.0, 91.0, 92.0], [0, 0, 0])) is None
    assert difference(ScoreSample([90.0, 91.0], [0, 0]), ScoreSample([90.0, 91.0], [0, 1])) == (0.0, None)


@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_of_a_difference_covers_95_percent(shared: bool) -> None:
    """The examples are as hard for one method as for the other, and so are the runs that both have."""
    draw = np.random.default_rng(int(shared))
    runs, examples, trials, hits = 8, 300, 1500, 0
    for _ in range(trials):
        hard = draw.normal(0, 1, examples)
        of_runs = draw.normal(0, 0.2, (2, runs))
        samples = []
        for k, gain in enumerate((0.2, 0.0)):
            skill = 1 + gain + of_runs[0 if shared else k]
            right = hard + draw.normal(0, 0.5, (runs, examples)) < skill[:, None]
            samples.append(
                ScoreSample((100 * right.mean(1)).tolist(), [(shared or k, run) for run in range(runs)], right=right)
            )
        # A large sample of examples and runs has this difference.
        truth = 100 * (_share(1.2) - _share(1.0))
        _, interval = difference(*samples)
        assert interval
        hits += interval[0] <= truth <= interval[1]
    # The noise of single answers is in both parts of the variance, so the interval covers a little more.
    assert 0.94 <= hits / trials < 1


def _share(skill: float) -> float:
    from scipy.stats import norm

    return float(norm.cdf(skill / np.sqrt(1 + 0.5**2 + 0.2**2)))


def test_answers_to_the_same_examples_are_paired() -> None:
    """Two methods that are wrong on the same examples differ by nothing, however few the examples are."""
    right = np.tile(np.arange(100) < 90, (4, 1))
    sample = ScoreSample([90.0] * 4, [0, 1, 2, 3], right=right)
    assert difference(sample, sample) == (0.0, (0.0, 0.0))
    _, unpaired = difference(sample, ScoreSample([90.0] * 4, [0, 1, 2, 3], right=right[:, ::-1]))
    assert unpaired
    assert unpaired[1] == pytest.approx(t.ppf(0.975, 99) * np.sqrt(0.2 * 100 / 99 / 100) * 100)
