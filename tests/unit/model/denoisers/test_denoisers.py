"""Denoisers: shapes, times that tokens share, and prototypes of any width."""

import pytest
import torch

from rpg.config.model import ConvolutionDenoiserConfig, MLPDenoiserConfig, NoDenoiserConfig
from rpg.model.denoisers import DENOISERS, Denoiser

B, L, D, M = 3, 5, 16, 12
PARAMS = {
    "convolution": ConvolutionDenoiserConfig(kind="convolution", channels=[1, 4, 6, 4, 1], kernel=3),
    "mlp": MLPDenoiserConfig(kind="mlp", hidden=24, blocks=2),
    "none": NoDenoiserConfig(kind="none"),
}


def denoiser_of(kind: str, prototype_width: int) -> Denoiser:
    torch.manual_seed(0)
    return DENOISERS[kind](PARAMS[kind], D, prototype_width).double()


@pytest.mark.parametrize("kind", DENOISERS)
def test_shared_times(kind: str) -> None:
    """Times that tokens share are given once: the same prediction as with each token's own."""
    denoiser = denoiser_of(kind, D)
    for parameter in denoiser.parameters():
        # Some start at zero and would hide the time.
        torch.nn.init.normal_(parameter, std=0.3)
    x, prototypes = torch.randn(2, B, L, D, dtype=torch.float64)
    t = torch.tensor([0, 400, 999])
    shared = denoiser(x, t.unsqueeze(1), prototypes)
    assert shared.shape == (B, L, D)
    each = denoiser(x.flatten(0, 1), t.repeat_interleave(L), prototypes.flatten(0, 1))
    torch.testing.assert_close(shared.flatten(0, 1), each, rtol=1e-10, atol=1e-12)
    other = denoiser(x, torch.tensor([[0], [400], [500]]), prototypes)
    assert torch.equal(other[:2], shared[:2]) or kind == "convolution"
    assert torch.equal(other[2], shared[2]) == (kind == "none")


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("width", [M, D, 2 * D])
def test_prototypes_of_any_width(kind: str, width: int) -> None:
    denoiser = denoiser_of(kind, width)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, prototypes = torch.randn(B, L, D, dtype=torch.float64), torch.randn(B, L, width, dtype=torch.float64)
    t = torch.tensor([[0], [400], [999]])
    prediction = denoiser(x, t, prototypes)
    assert prediction.shape == (B, L, D)
    # One channel of the prototype changes the prediction of its own token alone, with statistics that are fixed.
    moved = prototypes.clone()
    moved[1, 2, width - 1] += 1
    denoiser.eval()
    changed = (denoiser(x, t, moved) - denoiser(x, t, prototypes)).abs().amax(-1) > 1e-9
    assert changed.nonzero().tolist() == [[1, 2]]


def test_convolution_projects_only_prototypes_of_another_width() -> None:
    """The published state dict has no projection. With one, the prediction is that for projected prototypes."""
    plain, projecting = denoiser_of("convolution", D), denoiser_of("convolution", M)
    own = set(projecting.state_dict()) - set(plain.state_dict())
    assert own == {"projection.weight", "projection.bias"}
    plain.load_state_dict({name: tensor for name, tensor in projecting.state_dict().items() if name not in own})
    x, prototypes = torch.randn(B, L, D, dtype=torch.float64), torch.randn(B, L, M, dtype=torch.float64)
    t = torch.tensor([[0], [400], [999]])
    projected = prototypes @ projecting.projection.weight.T + projecting.projection.bias
    torch.testing.assert_close(projecting(x, t, prototypes), plain(x, t, projected))
