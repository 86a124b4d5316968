"""A linear layer in place of a denoiser: an ablation of the diffusion."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from rpg.model.denoisers.base import Denoiser

if TYPE_CHECKING:
    from rpg.config.model import NoDenoiserConfig


class NoDenoiser(Denoiser):
    """Predict by one linear layer on the prototype; the noisy token and the time are ignored."""

    def __init__(self, params: "NoDenoiserConfig", width: int, prototype_width: int) -> None:
        super().__init__()
        self.output = nn.Linear(prototype_width, width)

    def forward(self, x_D: Tensor, t: Tensor, prototype_W: Tensor) -> Tensor:
        return self.output(prototype_W)
