"""The published denoiser."""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model.batchnorm import BatchNorm
from rpg.model.denoisers.base import TIME_WIDTH, Denoiser
from rpg.model.embeddings import time_embedding
from rpg.model.recomputing import run

if TYPE_CHECKING:
    from rpg.config.model import ConvolutionDenoiserConfig


class ConvolutionDenoiser(Denoiser):
    """A U-shaped stack of 1-D convolutions along the token's D weights, as published.

    Each step is Conv1d of (x + condition) · time, then BatchNorm and ELU except after the last. The first ⌊n/2⌋ + 1
    convolutions, n = len(channels), are the encoder. The outputs of the encoder's first steps are added to the
    decoder's inputs. A Linear first projects prototypes of another width to D.
    """

    def __init__(self, params: "ConvolutionDenoiserConfig", width: int, prototype_width: int) -> None:
        super().__init__()
        channels = params.channels
        # Only if the widths differ: the published state dict has no such layer.
        self.projection = nn.Identity() if prototype_width == width else nn.Linear(prototype_width, width)
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(width, width)
        steps = [
            _ConvStep(
                nn.Conv1d(before, after, params.kernel),
                nn.Identity() if last else nn.Sequential(BatchNorm(after), nn.ELU()),
            )
            for (before, after), last in zip(pairwise(channels), [False] * (len(channels) - 2) + [True], strict=True)
        ]
        encoders = len(channels) // 2 + 1
        self.encoder, self.decoder = nn.ModuleList(steps[:encoders]), nn.ModuleList(steps[encoders:])

    def forward(self, x_D: Tensor, t: Tensor, prototype_W: Tensor) -> Tensor:
        time_D = self.time(time_embedding(t, TIME_WIDTH).to(x_D.dtype))
        time_B11D = time_D.expand(x_D.shape).reshape(-1, 1, 1, x_D.shape[-1])
        condition_B11D = self.condition(self.projection(prototype_W)).reshape(time_B11D.shape)
        x, kept = x_D.reshape(time_B11D.shape), []
        for index, step in enumerate(self.encoder):
            x = run(step, x, condition_B11D, time_B11D, again=self.again)
            if index < len(self.encoder) - 2:
                kept.append(x)
        for step in self.decoder:
            x = run(step, x + kept.pop(), condition_B11D, time_B11D, again=self.again)
        return x.view(x_D.shape)


class _ConvStep(nn.Sequential):
    """One step on x [n, C, 1, D]. The tokens are images, because GPUs are fastest on images in channels-last memory."""

    def forward(self, x_BC1D: Tensor, condition_B11D: Tensor, time_B11D: Tensor) -> Tensor:  # type: ignore[override]
        convolution = self[0]
        assert isinstance(convolution, nn.Conv1d)
        x_BC1D = (x_BC1D + condition_B11D) * time_B11D
        if x_BC1D.is_cuda:
            x_BC1D = x_BC1D.contiguous(memory_format=torch.channels_last)
        weight, bias = convolution.weight.unsqueeze(2), convolution.bias
        return self[1](functional.conv2d(x_BC1D, weight, bias, padding="same"))
