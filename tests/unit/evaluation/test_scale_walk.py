from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import nn

from rpg.evaluation.scale_walk import find_scaling
from rpg.evaluation.scaling import Scaling


def entries(scaling: Scaling) -> list[tuple[int, set[tuple[str, int]]]]:
    """Units of each group, and its tensors with their exponents."""
    return [(group.units, {(entry.name, entry.exponent) for entry in group.entries}) for group in scaling.groups]


def found(*layers: nn.Module, shape: tuple[int, ...] = (3, 4)) -> list[tuple[int, set[tuple[str, int]]]]:
    return entries(find_scaling(nn.Sequential(*layers).eval(), torch.randn(shape)))


HIDDEN = {("0.weight", 1), ("0.bias", 1), ("2.weight", -1)}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nn.ReLU(), [(5, HIDDEN)]),
        (nn.LeakyReLU(), [(5, HIDDEN)]),
        (nn.Identity(), [(5, HIDDEN)]),
        (nn.GELU(), []),
        (nn.Sigmoid(), []),
        (nn.Hardswish(), []),
    ],
)
def test_a_function_between_two_linear_modules(function: nn.Module, expected: list) -> None:
    assert found(nn.Linear(4, 5), function, nn.Linear(5, 2)) == expected


def test_a_layer_norm_removes_one_factor_and_gives_others() -> None:
    assert found(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)) == [
        (1, {("0.weight", 1), ("0.bias", 1)}),
        (5, {("1.weight", 1), ("1.bias", 1), ("2.weight", -1)}),
    ]


def test_a_batch_norm_has_factors_before_and_behind_it() -> None:
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)
    assert found(*layers, shape=(3, 1, 8, 8)) == [
        (6, {("0.weight", 1), ("0.bias", 1), ("1.weight", -1)}),
        (6, {("1.weight", 1), ("1.bias", 1), ("3.weight", -1)}),
    ]


def test_a_group_norm_has_one_factor_per_part() -> None:
    layers = nn.Conv2d(1, 6, 3), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 3)
    assert [units for units, _ in found(*layers, shape=(3, 1, 8, 8))] == [3, 6]


def test_depthwise_and_grouped_convolutions() -> None:
    layers = (
        nn.Conv2d(1, 6, 1),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1, groups=2),
        nn.Conv2d(4, 2, 1),
    )
    assert found(*layers, shape=(3, 1, 8, 8)) == [
        (6, {("0.weight", 1), ("0.bias", 1), ("1.weight", -1)}),
        (6, {("1.weight", 1), ("1.bias", 1), ("3.weight", -1)}),
        (4, {("3.weight", 1), ("3.bias", 1), ("4.weight", -1)}),
    ]


def test_a_channel_of_a_flattened_map_is_several_inputs() -> None:
    layers = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)
    scaling = find_scaling(nn.Sequential(*layers).eval(), torch.randn(3, 1, 6, 6))
    (group,) = scaling.groups
    consumer = group.consumers[0]
    np.testing.assert_array_equal(consumer.units[0], np.repeat(np.arange(6), 16))


def test_added_values_share_their_factors() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(x + self.inner(x).relu())

    scaling = find_scaling(Residual().eval(), torch.randn(3, 4))
    assert entries(scaling) == [
        (5, {("first.weight", 1), ("first.bias", 1), ("inner.weight", -1), ("inner.weight", 1), ("inner.bias", 1),
             ("last.weight", -1)})
    ]  # fmt: skip


@pytest.mark.parametrize(
    "function", [lambda x: x + 1, lambda x: x * x, lambda x: x.softmax(1), lambda x: 1 / (x.abs() + 2)]
)
def test_a_function_that_is_not_homogeneous_leaves_no_factor(function: Callable) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(function(self.first(x)))

    assert find_scaling(Network().eval(), torch.randn(3, 4)) == Scaling()


def test_the_heads_of_relative_positions_share_a_factor() -> None:
    """Only queries meet the tables, which all heads share."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3, "window_size": 0}
    network = timm.create_model(
        "samvit_base_patch16", pretrained=False, num_classes=4, neck_chans=0, use_rel_pos=True, **arguments
    ).eval()
    groups = entries(find_scaling(network, torch.randn(2, 3, 32, 32)))
    tables = [(units, names) for units, names in groups if ("blocks.0.attn.rel_pos_h", -1) in names]
    (group,) = tables
    assert group[0] == 4
    assert ("blocks.0.attn.qkv.weight", 1) in group[1]
