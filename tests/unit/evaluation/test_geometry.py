import numpy as np
import pytest
import torch
from torch import nn

from rpg.evaluation.alignment import find_groups
from rpg.evaluation.geometry import PermutedPoints, Space, ZooPoints, combination, inner_products, residual
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, tokenize


@pytest.fixture(scope="module")
def space() -> Space:
    """Of a small network with 6 hidden units, whose tensors end within a token."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
    return Space(Layout.of(network.state_dict(), 5), find_groups(network, torch.randn(4, 3)))


def random_points(space: Space, count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.standard_normal((count, 3 * 6 + 6 + 6 * 2 + 2)).astype(np.float32)


def test_point_is_the_tokens_without_padding(space: Space) -> None:
    state_dict = {tensor.name: torch.randn(tensor.shape) for tensor in space.layout.tensors}
    tokens_LD = tokenize(state_dict, space.layout, Stats.of(space.layout, [state_dict]))
    point_P = space.point(tokens_LD)
    assert point_P.shape == (38,)
    assert torch.equal(space.tokens(point_P), tokens_LD.nan_to_num(0))
    for name, tensor in space.tensors(point_P).items():
        expected = (state_dict[name] - state_dict[name].mean()) / state_dict[name].std()
        np.testing.assert_allclose(tensor, expected, rtol=1e-4, atol=1e-5)


def test_order_undoes_a_permutation(space: Space) -> None:
    (point_P,) = random_points(space, 1)
    tensors = space.tensors(point_P)
    order = np.array([3, 1, 0, 5, 4, 2])
    moved_P = np.concatenate(
        [tensors["0.weight"][order].ravel(), tensors["0.bias"][order], tensors["2.weight"][:, order].ravel(),
         tensors["2.bias"]]
    )  # fmt: skip
    assert np.array_equal(moved_P[space.order(moved_P, point_P)], point_P)
    assert space.order(point_P, point_P) == slice(None)


def test_residual_is_that_of_least_squares() -> None:
    draw = np.random.default_rng(0)
    others_NP, point_P = draw.standard_normal((4, 30)), draw.standard_normal(30)
    directions = (others_NP[1:] - others_NP[0]).T
    _, squares, *_ = np.linalg.lstsq(directions, point_P - others_NP[0])
    assert residual(point_P, others_NP) == pytest.approx((squares[0] / 30) ** 0.5)
    assert residual(0.5 * others_NP[0] + 2 * others_NP[1] - 1.5 * others_NP[2], others_NP) == pytest.approx(0, abs=1e-6)
    # One other is a point; with P + 1 of them every point is a combination.
    assert residual(point_P, others_NP[:1]) == pytest.approx(np.sqrt(np.mean((point_P - others_NP[0]) ** 2)))
    assert residual(point_P, draw.standard_normal((31, 30))) == pytest.approx(0, abs=1e-4)


def test_measure_by_hand(space: Space) -> None:
    points_NP = np.zeros((4, 38), np.float32)
    points_NP[:, 0] = [0, 1, 10, 14]
    zoo = ZooPoints(Space(space.layout, []), points_NP, np.array([0, 0, 1, 1]), np.array([""] * 4))
    unit = 38**-0.5
    found = zoo.measure(points_NP[1], own_index=1)
    assert found["nearest"] == 0
    names = ("distance", "distance_across", "aligned", "aligned_across", "residual")
    assert [found[name] / unit for name in names] == pytest.approx([1, 9, 1, 9, 0], abs=1e-5)
    point_P = np.zeros(38, np.float32)
    point_P[:2] = 12.5, 2
    found = zoo.measure(point_P)
    assert found["nearest"] == 3
    assert "distance_across" not in found
    assert [found[name] / unit for name in names if name in found] == pytest.approx([2.5, 2.5, 2], abs=1e-5)
    assert set(zoo.measure(point_P, align=False)) == {"nearest", "distance"}


def test_products_of_permuted_points(space: Space) -> None:
    points_NP = random_points(space, 5)
    zoo = ZooPoints(space, points_NP, np.array([0, 0, 1, 1, 2]), np.array([""] * 5))
    draw = np.random.default_rng(0)
    orders = {0: slice(None), 1: draw.permutation(38), 2: draw.permutation(38)}
    permuted = zoo.permuted(points_NP, orders)
    permuted_NP = np.stack(list(permuted.rows()))
    np.testing.assert_array_equal(permuted_NP[3], points_NP[3][orders[1]])
    found = zoo.products(permuted, orders, points_NP.astype(float) @ points_NP.T.astype(float))
    np.testing.assert_allclose(found, permuted_NP.astype(float) @ permuted_NP.T.astype(float), rtol=1e-6)


def test_runs_are_seeds_and_codes(space: Space) -> None:
    points_NP = np.zeros((3, 38), np.float32)
    points_NP[:, 0] = [0, 1, 5]
    zoo = ZooPoints(Space(space.layout, []), points_NP, np.array([0, 0, 0]), np.array(["01", "10", "01"]))
    found = zoo.measure(points_NP[0], own_index=0)
    assert (found["distance"], found["distance_across"]) == pytest.approx((38**-0.5, 38**-0.5))
    assert zoo.measure(points_NP[1], own_index=1)["distance_across"] == pytest.approx(38**-0.5)


def test_what_there_is_nothing_to_compare_with_is_left_out(space: Space) -> None:
    points_NP = np.zeros((2, 38), np.float32)
    points_NP[:, 0] = [0, 1]
    one_run = ZooPoints(Space(space.layout, []), points_NP, np.array([0, 0]), np.array([""] * 2))
    assert set(one_run.measure(points_NP[0], own_index=0)) == {"nearest", "distance", "aligned"}
    alone = ZooPoints(Space(space.layout, []), points_NP[:1], np.array([0]), np.array([""]))
    assert alone.measure(points_NP[0], own_index=0) == {}
    assert set(alone.measure(points_NP[1])) == {"nearest", "distance", "aligned", "residual"}


def test_alignment_is_by_seed(space: Space) -> None:
    """Two seeds, each in an order of its own: the point is near to one of them, once its units are moved."""
    first_P, second_P = random_points(space, 2)
    tensors = space.tensors(np.arange(38))
    order = np.array([5, 3, 4, 0, 2, 1])
    index = np.concatenate(
        [tensors["0.weight"][order].ravel(), tensors["0.bias"][order], tensors["2.weight"][:, order].ravel(),
         tensors["2.bias"]]
    )  # fmt: skip
    points_NP = np.stack([first_P, first_P + 0.01, second_P])
    zoo = ZooPoints(space, points_NP, np.array([0, 0, 1]), np.array([""] * 3))
    moved_NP = list(zoo.permuted(points_NP, zoo.orders(points_NP, first_P[index])).rows())
    np.testing.assert_array_equal(moved_NP[0], first_P[index])
    np.testing.assert_allclose(moved_NP[1], first_P[index] + 0.01, rtol=1e-6)
    found = zoo.measure(first_P[index])
    assert found["aligned"] == 0
    assert found["distance"] > 0.3


@pytest.mark.parametrize("block", [1, 12, 10_000])
def test_blocks_of_columns_are_as_good_as_the_whole(space: Space, monkeypatch, block: int) -> None:
    monkeypatch.setattr("rpg.evaluation.geometry.BLOCK", block)
    points_NP, point_P = random_points(space, 5), random_points(space, 1, seed=1)[0]
    order = np.random.default_rng(0).permutation(38)
    orders = [order, order, slice(None), slice(None), order]
    points = PermutedPoints(points_NP, orders, np.arange(5)).chosen(np.array([True, False, True, True, True]))
    whole_NP = np.stack([points_NP[0][order], points_NP[2], points_NP[3], points_NP[4][order]]).astype(np.float64)
    np.testing.assert_allclose(inner_products(points), whole_NP @ whole_NP.T, rtol=1e-12)
    np.testing.assert_allclose(points.along(point_P), whole_NP @ (point_P - whole_NP.mean(0)), rtol=1e-12)
    share_N = combination(point_P, points)
    np.testing.assert_allclose(points.mixed(share_N), share_N @ whole_NP, rtol=1e-12)
    directions = (whole_NP[1:] - whole_NP[0]).T
    expected = np.linalg.lstsq(directions, point_P - whole_NP[0])[0]
    np.testing.assert_allclose(share_N[1:], expected, rtol=1e-5, atol=1e-7)


def test_pairs_have_a_common_rank() -> None:
    """A convolution's factors have four dimensions. Those of peft's `use_bdlora` are blocks, and no pair."""
    shapes = {"conv": ((2, 3, 3, 3), (4, 2, 1, 1)), "linear": ((2, 6), (5, 2)), "blocks": ((2, 3), (5, 4))}
    state_dict = {
        f"{name}.lora_{letter}.weight": torch.randn(shape)
        for name, pair in shapes.items()
        for letter, shape in zip("AB", pair, strict=True)
    }
    layout = Layout.of(state_dict, 8)
    space = Space(layout, [], stats=Stats.of(layout, [state_dict]))
    assert [pair.rank for pair in space.pairs] == [2, 2]
    assert [pair.first for pair in space.pairs] == [
        space.places["conv.lora_A.weight"],
        space.places["linear.lora_A.weight"],
    ]
