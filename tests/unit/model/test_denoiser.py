"""Times that tokens share are given once: the same prediction as with each token's own."""

import pytest
import torch

from rpg.model.denoiser import ConvDenoiser, MLPDenoiser, NoDenoiser

B, L, D = 3, 5, 16
DENOISERS = {
    "published": lambda: ConvDenoiser(D, [1, 4, 4, 1], 3),
    "mlp": lambda: MLPDenoiser(D, D, 24, 2),
    "none": lambda: NoDenoiser(D, D),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_shared_times(name: str) -> None:
    torch.manual_seed(0)
    denoiser = DENOISERS[name]().double()
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
    assert torch.equal(other[:2], shared[:2]) or name == "published"
    assert torch.equal(other[2], shared[2]) == (name == "none")
