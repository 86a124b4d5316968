"""What generators in RPG's place share: tokens of points, noise, embeddings."""

import torch
from peers import PEERS

from rpg.config.model import ImagesCondition
from rpg.config.peers import GaussianParams
from rpg.model.set_encoder import support_values
from rpg.peers.base import FREQUENCIES, IMAGES, ConditionEmbedding, Peer, PeerConditions, ResidualMLP, noise
from rpg.tokenizer.layout import Layout

STATE = {"first.weight": torch.zeros(3, 2), "second.weight": torch.zeros(5)}


def test_tokens_of_points_hold_each_weight_once_and_zeros_in_the_padding() -> None:
    layout = Layout.of(STATE, width=4)
    peer = Peer(
        GaussianParams.model_validate(PEERS["gaussian"]), layout.padding(), PeerConditions({"permutation_state": 2})
    )
    tokens = peer.tokens_of(torch.arange(1.0, 12.0).unsqueeze(0))
    assert tokens[0].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 10], [11, 0, 0, 0]]


def test_conditions_are_joined_in_the_order_of_the_model() -> None:
    conditions = PeerConditions({"permutation_state": 2, "task_code": 1})
    values = {"task_code": torch.tensor([[7.0]]), "permutation_state": torch.tensor([[0.0, 1.0]])}
    assert conditions.joined(values, torch.zeros(1)).tolist() == [[0.0, 1.0, 7.0]]
    assert conditions.width == 3
    # A peer that sees no images has no weights of an encoder.
    assert not conditions.state_dict()


def test_images_follow_the_numbers_and_their_order_does_not_matter() -> None:
    images = ImagesCondition(kind="images", features=3, hidden=8, reach="all")
    conditions = PeerConditions({"permutation_state": 2}, images)
    draw = torch.Generator().manual_seed(0)
    sides = [torch.randn(4, 3, generator=draw) for _ in range(2)]
    values = {"permutation_state": torch.tensor([[0.0, 1.0]]), "images": support_values([sides])}
    joined = conditions.joined(values, torch.zeros(1))
    assert joined.shape == (1, conditions.width) == (1, 2 + IMAGES)
    assert joined[0, :2].tolist() == [0.0, 1.0]
    turned = support_values([[side.flip(0) for side in sides]])
    assert torch.allclose(conditions.joined({**values, "images": turned}, torch.zeros(1)), joined, atol=1e-6)
    swapped = support_values([[*reversed(sides)]])
    assert not torch.allclose(conditions.joined({**values, "images": swapped}, torch.zeros(1)), joined, atol=1e-3)


def test_noise_of_a_network_is_its_own() -> None:
    def draws(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = noise(draws(1, 2), (4, 3), torch.zeros(1))
    assert both.shape == (2, 4, 3)
    assert torch.equal(both[1], noise(draws(2), (4, 3), torch.zeros(1))[0])


def test_embeddings_depend_on_time_and_condition_and_scale_the_mlp() -> None:
    embedding, mlp = ConditionEmbedding(2, 8), ResidualMLP(3, 5, 8, 2)
    t, conditions = torch.tensor([3.0, 3.0, 900.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    embedded = embedding(t, conditions)
    assert embedded.shape == (3, 8)
    assert embedding.time[0].in_features == FREQUENCIES
    assert (embedded[0] - embedded[1]).abs().max() > 1e-3
    assert (embedded[0] - embedded[2]).abs().max() > 1e-3
    # A new MLP predicts zero, and learns from there.
    assert torch.equal(mlp(torch.randn(3, 3), embedded), torch.zeros(3, 5))
    torch.nn.init.normal_(mlp.out.weight)
    x = torch.randn(1, 3).expand(3, 3)
    outputs = mlp(x, embedded)
    assert not torch.allclose(outputs[0], outputs[1])
