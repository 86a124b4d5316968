"""p-diff: lengths of the autoencoder and the U-Net, the latents' scale, and that both phases learn."""

import pytest
import torch
from peers import PEERS

from rpg.config.peers import PDiffParams
from rpg.peers.base import PeerConditions, ZooVectors
from rpg.peers.p_diff import PDiff, UNet
from rpg.tokenizer.layout import Layout


def model(weights: int, **keys: object) -> PDiff:
    params = PDiffParams.model_validate({**PEERS["p_diff"], **keys})
    return PDiff(
        params, Layout.of({"weight": torch.zeros(weights)}, width=4).padding(), PeerConditions({"permutation_state": 2})
    )


@pytest.mark.parametrize("weights", [9, 10, 53])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 3), (5, 3), (7, 3), (5, 2), (9, 4)])
def test_decoded_networks_have_the_length_of_networks(weights: int, kernel: int, stride: int) -> None:
    peer = model(weights, kernel=kernel, stride=stride)
    latents = peer.encode(torch.randn(2, weights))
    assert latents.shape == (2, 4, -(-weights // stride**2))
    assert latents.shape[1:] == peer.center.shape
    assert peer.decode(latents).shape == (2, weights)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_u_net_keeps_any_length(length: int) -> None:
    network = UNet(3, [4, 8], 2, 3)
    assert network(torch.randn(2, 3, length), torch.tensor([0, 999]), torch.eye(2)).shape == (2, 3, length)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel: must be odd"):
        PDiffParams.model_validate({**PEERS["p_diff"], "kernel": 4})


def test_latents_are_standardized_before_the_denoiser_learns() -> None:
    peer = model(60)
    points = torch.randn(6, 60)
    zoo = ZooVectors(points, torch.eye(2)[[0, 0, 0, 1, 1, 1]], torch.tensor([0] * 3 + [1] * 3), torch.zeros(1, 60))
    peer.begin(0, zoo)
    assert peer.scale == 1
    peer.begin(1, zoo)
    with torch.no_grad():
        latents = (peer.encode(points) - peer.center) / peer.scale
    assert latents.mean(0).abs().max() < 1e-5
    assert latents.std().item() == pytest.approx(1.0, rel=1e-4)


def test_both_phases_learn() -> None:
    peer = model(40, channels=[16, 8], denoiser=[16, 16], kernel=5)
    points = torch.randn(2, 40)
    zoo = ZooVectors(points, torch.eye(2), torch.arange(2), torch.zeros(1, 40))
    optimizer = torch.optim.Adam(peer.parameters(), 0.01)
    losses: list[float] = []
    for step in range(400):
        phase = step // 200
        if step % 200 == 0:
            peer.begin(phase, zoo)
        optimizer.zero_grad()
        loss = peer.loss(phase, points, torch.eye(2), torch.zeros(0), torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[190:200]) < 0.3 * sum(losses[:10])
    assert sum(losses[350:]) / 50 < 0.6 * sum(losses[200:210]) / 10
