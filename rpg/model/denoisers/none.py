"""No denoiser: an ablation of the diffusion."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from rpg.model.denoisers.base import Denoiser

if TYPE_CHECKING:
    from rpg.config.model import NoDenoiserConfig


class NoDenoiser(Denoiser):
    """The prediction is one linear layer of the prototype; noisy token and time are ignored."""

    def __init__(self, params: "NoDenoiserConfig", width: int, prototype_width: int) -> None:
        super().__init__()
        self.output = nn.Linear(prototype_width, width)

    def forward(self, x_D: Tensor, t: Tensor, prototype_W: Tensor) -> Tensor:
        return self.output(prototype_W)
