"""SANE: its loss against NT-Xent by hand, and its kernel density."""

import pytest
import torch
from peers import PEERS
from torch.nn import functional

from rpg.config.peers import SANEParams
from rpg.peers.base import PeerConditions, ZooVectors
from rpg.peers.sane import SANE
from rpg.tokenizer.layout import Layout

LAYOUT = Layout.of({"weight": torch.zeros(10)}, width=4)


def model(**keys: object) -> SANE:
    peer = SANE(
        SANEParams.model_validate({**PEERS["sane"], **keys}), LAYOUT.padding(), PeerConditions({"permutation_state": 3})
    )
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


def test_loss_without_contrast_is_the_reconstruction_of_the_networks() -> None:
    peer, points = model(contrast=0.0), torch.randn(2, 10)
    decoded = peer.decoder(peer.encoder(peer.tokens_of(points)))[:, ~peer.padding_LD]
    loss = peer.loss(0, points, torch.zeros(2, 3), None, torch.Generator())
    assert loss.item() == pytest.approx((decoded - points).square().mean().item(), rel=1e-5)


def test_examples_are_all_checkpoints_and_a_narrow_kernel_returns_one() -> None:
    peer = model(bandwidth=1e-9)
    assert peer.examples_EP.shape == (6, 10)
    assert peer.states_E.tolist() == [0, 1, 2, 0, 1, 2]
    peer.show(peer.examples_EP[:3], torch.arange(3))
    with torch.inference_mode():
        decoded = peer.decoder(peer.encoder(peer.tokens_of(peer.examples_EP)))[:, ~peer.padding_LD]
        values = {"permutation_state": torch.eye(3)}
        drawn = peer.points(values, [torch.Generator().manual_seed(k) for k in range(3)], 1.0)
    assert torch.allclose(drawn, decoded, atol=1e-5)


@pytest.mark.parametrize("told", [True, False])
def test_tokens_are_drawn_on_their_own_from_the_examples_of_the_states(told: bool) -> None:
    peer = model(bandwidth=1e-9)
    # The latents of each example are its number; states are 0, 1, 2, 0, 1, 2.
    peer.encoder = torch.nn.Module()
    peer.encoder.forward = lambda tokens: torch.arange(6.0).view(6, 1, 1).expand(6, peer.length, 8)  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    peer.decoder = torch.nn.Module()
    peer.decoder.forward = lambda z: seen.append(z) or torch.zeros(len(z), peer.length, 4)  # type: ignore[method-assign]
    draws = [torch.Generator().manual_seed(k) for k in range(300)]
    states = torch.tensor([[0.75, 0.25, 0.0]]).expand(300, 3)
    peer.points({"permutation_state": states} if told else {}, draws, 1.0)
    centers = seen[0][..., 0].round()
    shares = [(centers == example).float().mean().item() for example in range(6)]
    expected = [0.375, 0.125, 0.0, 0.375, 0.125, 0.0] if told else [1 / 6] * 6
    assert shares == pytest.approx(expected, abs=0.04)
    assert (centers.std(1) > 0).float().mean() > 0.5


def test_examples_of_any_number_are_stored() -> None:
    peer = model()
    peer.show(peer.examples_EP[:2], peer.states_E[:2])
    other = SANE(peer.params, LAYOUT.padding(), PeerConditions({"permutation_state": 3}))
    other.load_state_dict(peer.state_dict())
    assert torch.equal(other.examples_EP, peer.examples_EP)
    assert torch.equal(other.states_E, peer.states_E)


def test_examples_are_encoded_once_and_anew_when_they_or_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    peer, calls = model(bandwidth=1e-9), []
    encode = peer.encoder.forward
    monkeypatch.setattr(peer.encoder, "forward", lambda tokens: calls.append(len(tokens)) or encode(tokens))

    def drawn() -> torch.Tensor:
        with torch.inference_mode():
            return peer.points({"permutation_state": torch.eye(3)}, [torch.Generator().manual_seed(0)] * 3, 1.0)

    first = drawn()
    assert torch.equal(drawn(), first)
    assert calls == [6]
    peer.show(peer.examples_EP[3:], torch.arange(3))
    second = drawn()
    assert calls == [6, 3]
    assert not torch.allclose(second, first, atol=1e-3)
    peer.train()
    with torch.no_grad():
        peer.encoder.into.weight.mul_(2)
    third = drawn()
    assert calls == [6, 3, 3]
    assert not torch.allclose(third, second, atol=1e-3)
    peer.load_state_dict(peer.state_dict())
    peer.eval()
    drawn()
    assert calls == [6, 3, 3, 3]
