"""D2NWG: the bound of its VAE against numbers by hand, and the skip of its denoiser."""

import pytest
import torch
from peers import PEERS

from rpg.config.peers import D2NWGParams
from rpg.peers.base import PeerConditions, ZooVectors
from rpg.peers.d2nwg import D2NWG
from rpg.tokenizer.layout import Layout

LAYOUT = Layout.of({"weight": torch.zeros(10)}, width=4)


def model(**keys: object) -> D2NWG:
    return D2NWG(
        D2NWGParams.model_validate({**PEERS["d2nwg"], **keys}), LAYOUT.padding(), PeerConditions({"task_code": 2})
    )


def test_bound_is_the_error_plus_the_divergence() -> None:
    peer, points = model(kl=0.5), torch.randn(3, 10)

    def bound(kl: float) -> float:
        peer.params = D2NWGParams.model_validate({**PEERS["d2nwg"], "kl": kl})
        return peer.loss(0, points, torch.zeros(3, 2), torch.zeros(0), torch.Generator().manual_seed(0)).item()

    mean, log_variance = peer.posterior(points)
    by_hand = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    ).mean()
    assert bound(0.5) - bound(0.0) == pytest.approx(0.5 * by_hand.item(), rel=1e-3)


def test_latents_have_the_place_of_their_chunk() -> None:
    peer = model()
    same = torch.ones(1, 10)
    mean, _ = peer.posterior(same)
    assert mean.shape == (1, 3, 4)
    # Two chunks of equal weights have different latents.
    assert not torch.allclose(mean[0, 0], mean[0, 1])
    assert peer.decode(mean.flatten(1)).shape == (1, 10)


def test_it_learns_the_networks_of_codes() -> None:
    peer = model(hidden=32, latent=4, width=64, steps=20)
    points, codes = torch.randn(2, 10), torch.eye(2)
    zoo = ZooVectors(points, codes, torch.zeros(2).long(), torch.zeros(1, 10))
    optimizer = torch.optim.Adam(peer.parameters(), 0.005)
    for step in range(900):
        phase = 0 if step < 300 else 1
        if step in (0, 300):
            peer.begin(phase, zoo)
        rows = torch.tensor([0, 1] * (1 if phase == 0 else 8))
        optimizer.zero_grad()
        draw = torch.Generator().manual_seed(step)
        peer.loss(phase, points[rows], codes[rows], torch.zeros(0), draw).backward()
        optimizer.step()
    with torch.inference_mode():
        drawn = peer.points({"task_code": codes}, [torch.Generator().manual_seed(k) for k in range(2)], 1.0)
    distances = torch.cdist(drawn, points)
    assert distances.argmin(1).tolist() == [0, 1]
    assert distances.diagonal().max() < 0.5 * torch.dist(points[0], points[1])
