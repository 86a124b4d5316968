"""The kind of a metric: best and worst, shares, and the digits that files and tables have."""

import math

import pytest

from rpg.utils.metric import PERCENT, MetricKind

DB, ERROR, RETURN = MetricKind("dB"), MetricKind("", lower_is_better=True), MetricKind("points")


def test_best_is_the_smallest_where_lower_is_better() -> None:
    scores = [3.0, 1.0, 2.0]
    assert (DB.best(scores), DB.worst(scores)) == (3.0, 1.0)
    assert (ERROR.best(scores), ERROR.worst(scores)) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("kind", "score", "reference", "share"),
    [
        (PERCENT, 45.0, 90.0, 0.5),
        (PERCENT, 0.0, 90.0, 0.0),
        (PERCENT, 45.0, 0.0, 45e9),
        (DB, 15.0, 30.0, 0.5),
        (ERROR, 0.2, 0.1, 0.5),
        (ERROR, 0.05, 0.1, 2.0),
        (MetricKind("percent", lower_is_better=True), 8.0, 4.0, 0.5),
    ],
)
def test_a_share_is_larger_for_a_better_score(kind: MetricKind, score: float, reference: float, share: float) -> None:
    assert kind.relative(score, reference) == pytest.approx(share)


@pytest.mark.parametrize(("score", "reference"), [(-1.0, 2.0), (0.0, 2.0), (2.0, -1.0), (2.0, 0.0), (-2.0, -1.0)])
@pytest.mark.parametrize("kind", [RETURN, ERROR])
def test_scores_that_are_not_positive_have_no_share(kind: MetricKind, score: float, reference: float) -> None:
    assert math.isnan(kind.relative(score, reference))


def test_small_and_large_scores_keep_their_digits() -> None:
    assert (PERCENT.rounded(97.123456), PERCENT.text(97.126), PERCENT.with_unit(97.126)) == (97.1235, "97.13", "97.13")
    assert (ERROR.rounded(3.21234567e-5), ERROR.text(3.21234567e-5)) == (3.21235e-5, "3.212e-05")
    assert (DB.text(31.2), DB.with_unit(31.2), DB.text(31.2, "+")) == ("31.20", "31.20 dB", "+31.20")
    assert (RETURN.text(1234.0), RETURN.text(-1234.0, "+"), ERROR.with_unit(0.5)) == ("1234", "-1234", "0.5000")


def test_only_what_differs_is_written_and_said() -> None:
    assert (PERCENT.tree(), PERCENT.label("top1"), PERCENT.in_unit) == ({}, "top1", "in percent")
    assert (DB.tree(), DB.label("psnr"), DB.in_unit) == ({"unit": "dB"}, "psnr (dB)", "in dB")
    assert ERROR.tree() == {"unit": "", "lower_is_better": True}
    assert (ERROR.label("mse"), ERROR.in_unit) == ("mse (lower is better)", "without a unit")
    assert MetricKind("m", lower_is_better=True).label("rmse") == "rmse (m, lower is better)"


def test_only_a_percentage_is_bounded() -> None:
    assert (PERCENT.most, DB.most) == (100.0, math.inf)
