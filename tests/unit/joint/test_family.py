"""Statistics of an architecture that was not trained."""

import math
from collections.abc import Callable

import pytest
import torch

from rpg.joint.family import family_tokenizer
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.utils.errors import UserError


def layout(width: int, name: str = "conv.weight") -> Layout:
    return Layout.of({name: torch.zeros(width, 4), "norm.bias": torch.zeros(3), "count": torch.zeros(())}, 8)


def tokenizer(width: int, std: float) -> Tokenizer:
    ones = torch.ones(2, dtype=torch.float64)
    stats = Stats(ones * width, torch.tensor([std, 5.0], dtype=torch.float64), ones, ones)
    return Tokenizer(layout(width), stats, {"count": torch.full((2,), float(width))})


def test_statistics_are_linear_in_the_logarithm_of_the_weights() -> None:
    made = family_tokenizer(layout(8), [tokenizer(4, 1.0), tokenizer(16, 3.0)], states=4)
    assert made.stats.std.tolist() == pytest.approx([2.0, 5.0])
    assert made.stats.mean.tolist() == pytest.approx([10.0, 10.0])
    share = math.log(5 / 4) / math.log(4)
    near = family_tokenizer(layout(5), [tokenizer(4, 1.0), tokenizer(16, 3.0)], states=4)
    assert near.stats.std[0].item() == pytest.approx(1 + 2 * share)


def test_statistics_are_constant_outside_of_the_trained_widths() -> None:
    family = [tokenizer(4, 1.0), tokenizer(16, 3.0)]
    found = [family_tokenizer(layout(width), family, states=4).stats.std[0].item() for width in (2, 4, 16, 32)]
    assert found == pytest.approx([1.0, 1.0, 3.0, 3.0])


def test_copied_tensors_are_those_of_the_nearest_architecture() -> None:
    made = family_tokenizer(layout(12), [tokenizer(4, 1.0), tokenizer(16, 3.0)], states=4)
    assert made.skipped["count"].tolist() == [16.0] * 4


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (lambda: layout(8, name="linear.weight"), "must have the tensors of all trained architectures"),
        (
            lambda: Layout.of(
                {"conv.weight": torch.zeros(8, 4), "norm.bias": torch.zeros(3), "count": torch.zeros(1)}, 8
            ),
            "tensor 'count' can't be copied",
        ),
    ],
)
def test_another_family_is_refused(asked: Callable[[], Layout], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        family_tokenizer(asked(), [tokenizer(4, 1.0), tokenizer(16, 3.0)], states=4)
