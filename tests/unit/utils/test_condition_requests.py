"""The values of the conditions for a requested network."""

import pytest

from rpg.utils.condition_requests import met, requested
from rpg.utils.errors import UserError

DRAWN = {"permutation_state": [0.0, 1.0, 0.0], "task_code": [1.0, 0.0], "width": [3.5]}


def test_the_drawn_checkpoint_supplies_what_is_omitted() -> None:
    assert requested(DRAWN, ["width"], None, None) == DRAWN
    row = requested(DRAWN, ["width"], (0, 2), "01", {"width": [4]})
    assert row == {"permutation_state": [0.5, 0.0, 0.5], "task_code": [0.0, 1.0], "width": [4]}
    assert DRAWN["permutation_state"] == [0.0, 1.0, 0.0]


def test_states_and_code_are_read_back() -> None:
    assert met(DRAWN) == ((1,), "10")
    assert met(requested(DRAWN, ["width"], (0, 2), "01")) == ((0, 2), "01")
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
        requested(DRAWN, ["width"], *request_)
    with pytest.raises(UserError, match="no permutation states"):
        requested({"width": [1.0]}, ["width"], (0,), None)
    with pytest.raises(UserError, match="not trained on task codes"):
        requested({"width": [1.0]}, ["width"], None, "01")
