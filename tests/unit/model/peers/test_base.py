"""What generators in RPG's place share: tokens of points, noise, embeddings."""

import torch
from peers import PEERS

from rpg.config.peers import GaussianParams
from rpg.model.peers.base import FREQUENCIES, ConditionEmbedding, Peer, ResidualMLP, noise
from rpg.tokenizer.layout import Layout

STATE = {"first.weight": torch.zeros(3, 2), "second.weight": torch.zeros(5)}


def test_tokens_of_points_hold_each_weight_once_and_zeros_in_the_padding() -> None:
    layout = Layout.of(STATE, width=4)
    peer = Peer(GaussianParams.model_validate(PEERS["gaussian"]), layout.padding(), {"permutation_state": 2})
    tokens = peer.tokens_of(torch.arange(1.0, 12.0).unsqueeze(0))
    assert tokens[0].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 10], [11, 0, 0, 0]]


def test_conditions_are_joined_in_the_order_of_the_model() -> None:
    peer = Peer(
        GaussianParams.model_validate(PEERS["gaussian"]),
        Layout.of(STATE, 4).padding(),
        {"permutation_state": 2, "task_code": 1},
    )
    values = {"task_code": torch.tensor([[7.0]]), "permutation_state": torch.tensor([[0.0, 1.0]])}
    assert peer.joined(values).tolist() == [[0.0, 1.0, 7.0]]
    assert peer.conditions == 3


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
