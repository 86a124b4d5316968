"""SANE: its loss against NT-Xent by hand, and its kernel density."""

import pytest
import torch
from peers import PEERS
from torch.nn import functional

from rpg.config.peers import SANEParams
from rpg.model.peers.base import ZooVectors
from rpg.model.peers.sane import SANE
from rpg.tokenizer.layout import Layout

LAYOUT = Layout.of({"weight": torch.zeros(10)}, width=4)


def model(**keys: object) -> SANE:
    peer = SANE(SANEParams.model_validate({**PEERS["sane"], **keys}), LAYOUT.padding(), {"permutation_state": 3})
    points = torch.randn(6, 10, generator=torch.Generator().manual_seed(3))
    peer.fit(ZooVectors(points, torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2), torch.zeros(1, 10)))
    return peer.eval()


def test_loss_is_reconstruction_and_nt_xent_of_the_views() -> None:
    peer = model(contrast=0.25, temperature=0.5)
    points = torch.randn(2, 10)
    views = torch.stack([torch.stack([torch.randperm(10) for _ in range(2)]) for _ in range(2)])
    both = torch.stack([points[b][views[b, v]] for v in range(2) for b in range(2)])
    latents = peer.encoder(peer.tokens_of(both))
    error = (peer.decoder(latents)[:, ~peer.padding_LD] - both).square().mean()
    projected = functional.normalize(peer.projection(latents.flatten(1)), dim=1)
    terms = []
    for row, partner in enumerate([2, 3, 0, 1]):
        similar = (projected[row] @ projected.T / 0.5).exp()
        terms.append(-(similar[partner] / (similar.sum() - similar[row])).log())
    expected = 0.75 * error + 0.25 * torch.stack(terms).mean()
    loss = peer.loss(0, points, torch.zeros(2, 3), views, torch.Generator())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_examples_are_the_last_checkpoints_and_a_narrow_kernel_returns_them() -> None:
    peer = model(bandwidth=1e-9)
    assert peer.examples_SP.shape == (3, 10)
    with torch.inference_mode():
        decoded = peer.decoder(peer.encoder(peer.tokens_of(peer.examples_SP)))[:, ~peer.padding_LD]
        values = {"permutation_state": torch.eye(3)}
        drawn = peer.points(values, [torch.Generator().manual_seed(k) for k in range(3)], 1.0)
    assert torch.allclose(drawn, decoded, atol=1e-5)


def test_tokens_are_drawn_on_their_own_from_the_examples_of_the_states() -> None:
    peer = model(bandwidth=1e-9)
    latents = torch.arange(3.0).view(3, 1, 1).expand(3, peer.length, 8)
    peer.encoder = torch.nn.Module()
    peer.encoder.forward = lambda _: latents  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    peer.decoder = torch.nn.Module()
    peer.decoder.forward = lambda z: seen.append(z) or torch.zeros(len(z), peer.length, 4)  # type: ignore[method-assign]
    draws = [torch.Generator().manual_seed(k) for k in range(300)]
    peer.points({"permutation_state": torch.tensor([[0.5, 0.5, 0.0]]).expand(300, 3)}, draws, 1.0)
    centers = seen[0][..., 0].round()
    # Half of the tokens come from each of two states, none from the third, and tokens of a network differ.
    assert (centers == 1).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (centers == 2).sum() == 0
    assert (centers.std(1) > 0).float().mean() > 0.5


def test_examples_of_any_number_are_stored() -> None:
    peer = model()
    peer.examples_SP = peer.examples_SP[:2]
    other = SANE(peer.params, LAYOUT.padding(), {"permutation_state": 3})
    other.load_state_dict(peer.state_dict())
    assert torch.equal(other.examples_SP, peer.examples_SP)
