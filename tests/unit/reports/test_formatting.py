from rpg.reports.formatting import join_medians, label_set, mean, points, table
from rpg.utils.artifacts import Difference, ScoreSummary
from rpg.utils.metric import MetricKind


def test_points_have_a_sign_and_an_interval_if_there_is_one() -> None:
    assert points(Difference.model_validate({"mean": 1.234, "interval": [-0.5, 2.0]})) == "+1.23 [-0.50, +2.00]"
    assert points(Difference.model_validate({"mean": -0.5})) == "-0.50"
    assert points(None) == "-"


def test_mean_of_one_group_has_no_interval() -> None:
    scores = {"mean": 97.123, "std": 0.456, "min": 96.0, "best": 98.0, "n": 3}
    assert mean(ScoreSummary.model_validate(scores)) == "97.12 ± 0.46"
    assert mean(ScoreSummary.model_validate({**scores, "interval": [96.5, 97.7]})) == "97.12 ± 0.46 [96.50, 97.70]"


def test_names_of_sets_and_missing_medians() -> None:
    assert [label_set("x", "all"), label_set("x", "held_out")] == ["x", "x, held-out"]
    assert join_medians("iou", 2, {"iou": 0.5}, {}) == "0.50 / -"


def test_table_keeps_texts_as_they_are() -> None:
    first, _, *lines = table([{"name": "a", "score": "1.50"}, {"name": "b", "score": "-"}]).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in [first, *lines]] == [
        ["name", "score"], ["a", "1.50"], ["b", "-"]
    ]  # fmt: skip


def test_numbers_in_another_unit_keep_four_digits() -> None:
    difference = Difference.model_validate({"mean": -1.2345e-5, "interval": [-2e-5, 3e-6]})
    assert points(difference, MetricKind("")) == "-1.234e-05 [-2.000e-05, +3.000e-06]"
    summary = ScoreSummary.model_validate({"mean": 31.25, "std": 0.5, "min": 30.0, "best": 32.0, "n": 3})
    assert mean(summary, MetricKind("dB")) == "31.25 ± 0.5000"
