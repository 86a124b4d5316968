"""The values of the conditions for a requested network."""

import math

import pytest

from rpg.utils.condition_requests import met, outside, requested
from rpg.utils.errors import UserError

# The values of three checkpoints, the first two of state 1 and the last of state 2.
TABLE = {
    "permutation_state": [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "task_code": [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]],
    "width": [[3.5], [4.5], [5.5]],
}
DRAWN = {name: values[0] for name, values in TABLE.items()}


def first(count: int) -> int:
    return 0


def last(count: int) -> int:
    return count - 1


def test_the_drawn_checkpoint_supplies_what_is_omitted() -> None:
    assert requested(TABLE, first, ["width"], None, None) == DRAWN
    assert requested(TABLE, last, ["width"], None, None)["width"] == [5.5]
    row = requested(TABLE, first, ["width"], (0, 2), "01", {"width": [4]})
    assert row == {"permutation_state": [0.5, 0.0, 0.5], "task_code": [0.0, 1.0], "width": [4]}
    assert TABLE["permutation_state"][0] == [0.0, 1.0, 0.0]


def test_vectors_go_with_the_requested_state() -> None:
    assert requested(TABLE, last, ["width"], (1,), None)["width"] == [4.5]
    assert requested(TABLE, first, ["width"], (2,), None)["width"] == [5.5]
    assert requested(TABLE, last, ["width"], (1, 2), None)["width"] == [5.5]
    # No checkpoint has state 0, and without vectors the state draws nothing.
    assert requested(TABLE, last, ["width"], (0,), None)["width"] == [5.5]
    counts: list[int] = []
    requested(TABLE, lambda count: counts.append(count) or 0, [], (2,), None)
    requested(TABLE, lambda count: counts.append(count) or 0, ["width"], (1,), None)
    assert counts == [3, 2]


def test_states_and_code_are_read_back() -> None:
    assert met(DRAWN) == ((1,), "10")
    assert met(requested(TABLE, first, ["width"], (0, 2), "01")) == ((0, 2), "01")
    assert met({"unconditional": [0.0]}) == ((0,), None)


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (((3,), None, None), "state 3: the zoo has states 0 to 2"),
        (((1, 1), None, None), "one is given twice"),
        ((None, None, {"depth": [1]}), "--vector depth: the model has no such vector; known: width"),
        ((None, None, {"width": [1, 2]}), "--vector width: must have 1 numbers, not 2"),
    ],
)
def test_unknown_requests(request_: tuple, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        requested(TABLE, first, ["width"], *request_)
    with pytest.raises(UserError, match="no permutation states"):
        requested({"width": [[1.0]]}, first, ["width"], (0,), None)
    with pytest.raises(UserError, match="not trained on task codes"):
        requested({"width": [[1.0]]}, first, ["width"], None, "01")


def test_numbers_outside_of_the_zoo_s_range() -> None:
    table = {"width": [[3.5, 0.0], [1.0, 0.0]]}
    assert outside(table, None) == outside(table, {"width": [1.0, 0.0]}) == []
    assert outside(table, {"width": [4.0, 0.0]}) == ["width=4 is outside of 1 to 3.5, the zoo's range; RPG guesses"]
    assert [line.split()[0] for line in outside(table, {"width": [0.5, -1e-9]})] == ["width=0.5", "width=-1e-09"]


def test_the_state_goes_with_the_requested_numbers() -> None:
    """Of the checkpoints, or of those of the requested states, one of the nearest supplies what is omitted."""
    table = {"permutation_state": [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "rate": [[0.1], [0.3], [0.2]]}

    def pick(count: int) -> int:
        return count - 1

    for rate, state in ((0.31, [1.0, 0.0]), (0.1, [1.0, 0.0]), (0.19, [0.0, 1.0]), (0.21, [0.0, 1.0])):
        assert requested(table, pick, ["rate"], None, None, {"rate": [rate]})["permutation_state"] == state
    table["kind"] = [[1.0], [2.0], [3.0]]
    fields = ["rate", "kind"]
    assert requested(table, pick, fields, (0,), None, {"rate": [0.2]})["kind"] == [2.0]
    assert requested(table, pick, fields, (0,), None, {"rate": [0.19]})["kind"] == [1.0]


def test_the_zoo_s_own_numbers_are_inside_though_they_were_rounded() -> None:
    assert outside({"rate": [[0.0010000000474974513], [0.30000001192092896]]}, {"rate": [0.001]}) == []
    assert outside({"rate": [[0.0010000000474974513], [0.30000001192092896]]}, {"rate": [0.3]}) == []


def test_omitted_optional_vectors_are_unknown() -> None:
    table = {**TABLE, "depth": [[1.0], [2.0], [3.0]]}
    fields = ["width", "depth"]
    row = requested(table, first, fields, None, None, {"width": [4.4]}, optional=fields)
    assert row["width"] == [4.4]
    assert math.isnan(row["depth"][0])
    # Without any vector in the request, a checkpoint supplies all of them.
    assert requested(table, last, fields, None, None, None, optional=fields)["depth"] == [3.0]
