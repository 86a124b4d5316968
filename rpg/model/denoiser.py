"""Denoisers: from a noisy token, its diffusion time and its prototype to a prediction, each token alone.

`forward` takes noisy tokens [..., D], times that broadcast to [...], and prototypes [..., D or M], and returns the
prediction [..., D]. Times that tokens share are given once ([B, 1] or [1]): half of an MLPDenoiser's products are of
the time alone. Where `again` is set, activations of the steps are computed again for the backward pass.

`ConvDenoiser` is the published network; `MLPDenoiser` reads [noisy token, prototype] with residual blocks, which
reaches the originals' accuracy in far fewer steps (docs/choices.md).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model.batchnorm import BatchNorm
from rpg.model.conditions import time_embedding
from rpg.model.recomputing import run

TIME_WIDTH = 256


class ConvDenoiser(nn.Module):
    """The published denoiser: a U-shaped stack of 1-D convolutions along the token's D weights.

    Each step is Conv1d of (x + condition) · time, then BatchNorm and ELU except after the last. The first ⌊n/2⌋ + 1
    convolutions, n = len(channels), are the encoder; outputs of its first steps are added to the decoder's inputs.
    """

    again = False

    def __init__(self, width: int, channels: list[int], kernel: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(width, width)
        steps = [
            _ConvStep(
                nn.Conv1d(before, after, kernel),
                nn.Identity() if last else nn.Sequential(BatchNorm(after), nn.ELU()),
            )
            for (before, after), last in zip(pairwise(channels), [False] * (len(channels) - 2) + [True], strict=True)
        ]
        encoders = len(channels) // 2 + 1
        self.encoder, self.decoder = nn.ModuleList(steps[:encoders]), nn.ModuleList(steps[encoders:])

    def forward(self, x_D: Tensor, t: Tensor, prototype_D: Tensor) -> Tensor:
        time_D = self.time(time_embedding(t, TIME_WIDTH).to(x_D.dtype))
        time_B11D = time_D.expand(x_D.shape).reshape(-1, 1, 1, x_D.shape[-1])
        condition_B11D = self.condition(prototype_D).reshape(time_B11D.shape)
        x, kept = x_D.reshape(time_B11D.shape), []
        for index, step in enumerate(self.encoder):
            x = run(step, x, condition_B11D, time_B11D, again=self.again)
            if index < len(self.encoder) - 2:
                kept.append(x)
        for step in self.decoder:
            x = run(step, x + kept.pop(), condition_B11D, time_B11D, again=self.again)
        return x.view(x_D.shape)


class _ConvStep(nn.Sequential):
    """Of x [n, C, 1, D]: as images, whose channels a GPU can have side by side in memory, which it is fastest with."""

    def forward(self, x_BC1D: Tensor, condition_B11D: Tensor, time_B11D: Tensor) -> Tensor:  # type: ignore[override]
        convolution = self[0]
        assert isinstance(convolution, nn.Conv1d)
        x_BC1D = (x_BC1D + condition_B11D) * time_B11D
        if x_BC1D.is_cuda:
            x_BC1D = x_BC1D.contiguous(memory_format=torch.channels_last)
        weight, bias = convolution.weight.unsqueeze(2), convolution.bias
        return self[1](functional.conv2d(x_BC1D, weight, bias, padding="same"))


class MLPDenoiser(nn.Module):
    """Residual MLP on [noisy token, prototype], with a linear skip from the prototype to the output.

    The skip lets the prototype carry the clean token by itself; the MLP adds what depends on the noise.
    """

    again = False

    def __init__(self, width: int, prototype_width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.input = nn.Linear(width + prototype_width, hidden)
        self.blocks = nn.ModuleList(_ResidualMLP(hidden) for _ in range(blocks))
        self.output = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width))
        self.skip = nn.Linear(prototype_width, width)

    def forward(self, x_D: Tensor, t: Tensor, prototype_M: Tensor) -> Tensor:
        time_H = self.time(time_embedding(t, TIME_WIDTH).to(x_D.dtype))
        hidden_H = self.input(torch.cat([x_D, prototype_M], dim=-1))
        for block in self.blocks:
            hidden_H = run(block, hidden_H, time_H, again=self.again)
        return self.output(hidden_H) + self.skip(prototype_M)


class NoDenoiser(nn.Module):
    """The prototype is the answer, through one linear layer; what is noisy, and how much, is not looked at."""

    again = False

    def __init__(self, width: int, prototype_width: int) -> None:
        super().__init__()
        self.output = nn.Linear(prototype_width, width)

    def forward(self, x_D: Tensor, t: Tensor, prototype_M: Tensor) -> Tensor:
        return self.output(prototype_M)


class _ResidualMLP(nn.Module):
    """h + W₂ silu(W₁ (norm(h) · (1 + scale) + shift)), scale and shift linear in the time embedding; starts as h."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.modulation = nn.Linear(hidden, 2 * hidden)
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden_H: Tensor, time_H: Tensor) -> Tensor:
        shift, scale = self.modulation(time_H).chunk(2, dim=-1)
        return hidden_H + self.outer(functional.silu(self.inner(self.norm(hidden_H) * (1 + scale) + shift)))
