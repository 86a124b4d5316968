"""Denoisers: from a noisy token, its diffusion time and its prototype to a prediction, each token alone.

`ConvDenoiser` is the published network; `MLPDenoiser` reads [noisy token, prototype] with residual blocks, which
reaches the originals' accuracy in far fewer steps (docs/choices.md).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model.conditions import time_embedding

TIME_WIDTH = 256


class ConvDenoiser(nn.Module):
    """The published denoiser: a U-shaped stack of 1-D convolutions along the token's D weights.

    Each step is Conv1d of (x + condition) · time, then BatchNorm and ELU except after the last. The first ⌊n/2⌋ + 1
    convolutions, n = len(channels), are the encoder; outputs of its first steps are added to the decoder's inputs.
    """

    def __init__(self, width: int, channels: list[int], kernel: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(width, width)
        steps = [
            nn.Sequential(
                nn.Conv1d(before, after, kernel, padding="same"),
                nn.Identity() if last else nn.Sequential(nn.BatchNorm1d(after), nn.ELU()),
            )
            for (before, after), last in zip(pairwise(channels), [False] * (len(channels) - 2) + [True], strict=True)
        ]
        encoders = len(channels) // 2 + 1
        self.encoder, self.decoder = nn.ModuleList(steps[:encoders]), nn.ModuleList(steps[encoders:])

    def forward(self, x_BD: Tensor, t_B: Tensor, prototype_BD: Tensor) -> Tensor:
        """Prediction [B, D] for noisy tokens [B, D] at times [B] with prototypes [B, D]."""
        time_B1D = self.time(time_embedding(t_B, TIME_WIDTH).to(x_BD.dtype)).unsqueeze(1)
        condition_B1D = self.condition(prototype_BD).unsqueeze(1)
        x, kept = x_BD.unsqueeze(1), []
        for index, step in enumerate(self.encoder):
            x = step((x + condition_B1D) * time_B1D)
            if index < len(self.encoder) - 2:
                kept.append(x)
        for step in self.decoder:
            x = step((x + kept.pop() + condition_B1D) * time_B1D)
        return x.squeeze(1)


class MLPDenoiser(nn.Module):
    """Residual MLP on [noisy token, prototype], with a linear skip from the prototype to the output.

    The skip lets the prototype carry the clean token by itself; the MLP adds what depends on the noise.
    """

    def __init__(self, width: int, prototype_width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.input = nn.Linear(width + prototype_width, hidden)
        self.blocks = nn.ModuleList(_ResidualMLP(hidden) for _ in range(blocks))
        self.output = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width))
        self.skip = nn.Linear(prototype_width, width)

    def forward(self, x_BD: Tensor, t_B: Tensor, prototype_BM: Tensor) -> Tensor:
        """Prediction [B, D] for noisy tokens [B, D] at times [B] with prototypes [B, M]."""
        time_BH = self.time(time_embedding(t_B, TIME_WIDTH).to(x_BD.dtype))
        hidden_BH = self.input(torch.cat([x_BD, prototype_BM], dim=-1))
        for block in self.blocks:
            hidden_BH = block(hidden_BH, time_BH)
        return self.output(hidden_BH) + self.skip(prototype_BM)


class NoDenoiser(nn.Module):
    """The prototype is the answer, through one linear layer; what is noisy, and how much, is not looked at."""

    def __init__(self, width: int, prototype_width: int) -> None:
        super().__init__()
        self.output = nn.Linear(prototype_width, width)

    def forward(self, x_BD: Tensor, t_B: Tensor, prototype_BM: Tensor) -> Tensor:
        """Prediction [B, D] for prototypes [B, M]."""
        return self.output(prototype_BM)


class _ResidualMLP(nn.Module):
    """h + W₂ silu(W₁ (norm(h) · (1 + scale) + shift)), scale and shift linear in the time embedding; starts as h."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.modulation = nn.Linear(hidden, 2 * hidden)
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden_BH: Tensor, time_BH: Tensor) -> Tensor:
        shift, scale = self.modulation(time_BH).chunk(2, dim=-1)
        return hidden_BH + self.outer(functional.silu(self.inner(self.norm(hidden_BH) * (1 + scale) + shift)))
