import numpy as np
import pytest
import timm
import torch
from torch import nn

from rpg.evaluation.alignment import distance, find_groups, match, permute
from rpg.evaluation.verification import as_arrays

# Small ones of three families, with more channels than a permutation could hit by chance.
NETWORKS = {
    "resnet18": {"in_chans": 1, "num_classes": 4, "layers": [1, 1, 1, 1], "channels": [8, 8, 12, 16]},
    "resnet50": {"num_classes": 4, "layers": [1, 1, 0, 0], "channels": [4, 8, 8, 8]},
    "vit_tiny_patch16_224": {"img_size": 32, "num_classes": 4, "embed_dim": 24, "depth": 2, "num_heads": 3},
    "convnext_atto": {"num_classes": 4, "depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]},
}


def build(name: str, seed: int = 0) -> nn.Module:
    """A network whose numbers all differ, statistics of BatchNorm included."""
    torch.manual_seed(seed)
    network = timm.create_model(name, **NETWORKS[name]).eval()
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor += 0.2 * torch.rand_like(tensor)
    return network


def inputs(name: str) -> torch.Tensor:
    return torch.randn(3, NETWORKS[name].get("in_chans", 3), 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_answers_alike_and_is_recovered(name: str) -> None:
    network, x = build(name), inputs(name)
    found = find_groups(network, x)
    assert found
    before = as_arrays(network.state_dict())
    draw = np.random.default_rng(1)
    planted = permute(before, found, [draw.permutation(group.units) for group in found])
    assert distance(planted, before) > 0.05
    with torch.no_grad():
        expected = network(x)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in planted.items()})
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
    again = permute(planted, found, match(planted, before, found))
    assert distance(again, before) == 0


@pytest.mark.parametrize("name", ["efficientnet_b0", "vgg11", "edgenext_xx_small", "ghostnet_100", "pvt_v2_b0"])
def test_networks_of_other_families_have_groups(name: str) -> None:
    """What is found has passed the test of random permutations."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3).eval()
    assert find_groups(network, torch.randn(2, 3, 64, 64))


def test_groups_of_a_vision_transformer() -> None:
    """The residual stream, and in each of two blocks the heads and the hidden units of the MLP."""
    found = find_groups(build("vit_tiny_patch16_224"), inputs("vit_tiny_patch16_224"))
    assert [group.units for group in found] == [24, 3, 96, 3, 96]
    heads = {axis.name for axis in found[1].axes}
    assert heads == {f"blocks.0.attn.{name}" for name in ("qkv.weight", "qkv.bias", "proj.weight")}
    assert {axis.name for axis in found[2].axes} == {
        f"blocks.0.mlp.{name}" for name in ("fc1.weight", "fc1.bias", "fc2.weight")
    }
    stream = {axis.name for axis in found[0].axes}
    assert {"pos_embed", "cls_token", "patch_embed.proj.weight", "head.weight"} <= stream
    assert "head.bias" not in stream


def test_a_channel_of_a_flattened_map_is_several_inputs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 4, 5)).eval()
    (found,) = find_groups(network, torch.randn(3, 1, 6, 6))
    assert [(axis.name, axis.shape, axis.axis) for axis in found.axes] == [
        ("0.weight", (6, 1, 3, 3), 0), ("0.bias", (6,), 0), ("3.weight", (5, 6, 16), 1),
    ]  # fmt: skip


def test_what_does_not_pass_the_test_has_no_groups() -> None:
    """Neighbouring channels are mixed by a function that the walk takes for one that acts on each alone."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.cumsum(self.first(x), 1))

    assert find_groups(Mixed().eval(), torch.randn(3, 4)) == []


def test_one_bad_group_leaves_the_others() -> None:
    """Only the mixed channels are no group."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(x).flip(1)).relu())

    (found,) = find_groups(Half().eval(), torch.randn(3, 4))
    assert {axis.name for axis in found.axes} == {"second.weight", "second.bias", "last.weight"}


def test_a_network_that_fails_has_no_groups() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) @ x

    assert find_groups(Failing().eval(), torch.randn(3, 4)) == []


def test_concatenated_channels_keep_their_groups() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.last = nn.Linear(4, 5), nn.Linear(4, 7), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
            return {"outputs": [self.last(torch.cat([self.left(x), self.right(x)], 1))]}

    found = find_groups(Fork().eval(), torch.randn(3, 4))
    assert [group.units for group in found] == [5, 7]
    assert [[(axis.name, axis.axis, axis.start) for axis in group.axes] for group in found] == [
        [("left.weight", 0, 0), ("left.bias", 0, 0), ("last.weight", 1, 0)],
        [("right.weight", 0, 0), ("right.bias", 0, 0), ("last.weight", 1, 5)],
    ]


def test_the_parts_of_a_group_norm_change_places_and_so_do_their_units() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(3, 6), nn.Tanh(), nn.Conv2d(6, 2, 3)).eval()
    found = find_groups(network, torch.randn(3, 1, 8, 8))
    assert [(group.units, group.inner) for group in found] == [(3, 3), (2, 0), (2, 0), (2, 0)]
    before = {name: np.random.default_rng(0).standard_normal(x.shape) for name, x in network.state_dict().items()}
    planted = permute(before, found, [np.array([2, 0, 1]), np.array([1, 0]), np.array([0, 1]), np.array([1, 0])])
    np.testing.assert_array_equal(planted["0.bias"], before["0.bias"][[5, 4, 0, 1, 3, 2]])
    assert distance(permute(planted, found, match(planted, before, found)), before) == 0


def test_match_is_the_best_of_all_orders() -> None:
    """Against every order of one small layer, for two networks that have nothing to do with each other."""
    from itertools import permutations

    network, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), torch.randn(5, 3)
    found = find_groups(network, x)
    draw = np.random.default_rng(0)
    one, other = (
        {name: draw.standard_normal(tensor.shape) for name, tensor in network.state_dict().items()} for _ in range(2)
    )
    reached = distance(permute(one, found, match(one, other, found)), other)
    assert reached == pytest.approx(
        min(distance(permute(one, found, [np.array(order)]), other) for order in permutations(range(4)))
    )
    assert reached < distance(one, other)


def test_distance_by_hand() -> None:
    one, other = (
        {"a": np.array([1.0, 2.0]), "b": np.array([[3.0]])},
        {"a": np.array([1.0, 4.0]), "b": np.array([[1.0]])},
    )
    assert distance(one, other) == pytest.approx((8 / 3) ** 0.5)


def test_groups_do_not_depend_on_the_weights() -> None:
    """Weights by which two images can't be told apart would prove nothing; so others are drawn."""
    network, x = build("resnet18"), inputs("resnet18")
    axes = [[(axis.name, axis.axis) for axis in group.axes] for group in find_groups(network, x)]
    assert axes
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert [[(axis.name, axis.axis) for axis in group.axes] for group in find_groups(network, x)] == axes
