"""RPG: a backbone computes a prototype per token; a diffusion model turns noise into the token, given the prototype."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rpg.blocks import Precision
from rpg.model import diffusion
from rpg.model.backbones import BACKBONES, Backbone, TokenPositions
from rpg.model.denoisers import DENOISERS, Denoiser
from rpg.utils.device import bfloat16

if TYPE_CHECKING:
    from rpg.config.model import Model

# The number of tokens of each network that are denoised at once. At the paper's widths a denoiser's activations are 100
# times as large as the tokens.
TOGETHER = 512


class RPG(nn.Module):
    """The generator for one architecture with L tokens of width D = `width`.

    `sizes` maps the name of each condition to its number of values. With `params.start: mean` or `state_mean`, the
    prediction is a start [L, D] + `spread` [L, 1] · output of the denoiser. The start is the mean of the zoo, `mean`
    [1, L, D], or, for each network, that of its permutation state, `mean` [S, L, D]. A training sets `mean` and
    `spread` before its first step; the state dict holds both.
    """

    mean: Tensor | None
    spread: Tensor | None

    def __init__(
        self,
        params: "Model",
        tokens: TokenPositions,
        *,
        width: int,
        sizes: Mapping[str, int],
        target: diffusion.Target,
    ) -> None:
        super().__init__()
        self.width, self.length, self.target = width, len(tokens), target
        means = {"zero": 0, "mean": 1, "state_mean": sizes.get("permutation_state", 1)}[params.start]
        self.register_buffer("mean", torch.zeros(means, self.length, width) if means else None)
        self.register_buffer("spread", torch.ones(self.length, 1) if means else None)
        backbone, denoiser = params.backbone, params.denoiser
        # State dicts of trained models contain the names `recurrent.` and `denoiser.`, so these names stay.
        self.recurrent: Backbone = BACKBONES[backbone.kind](backbone, tokens, params.conditions, sizes, width)
        self.denoiser: Denoiser = DENOISERS[denoiser.kind](denoiser, width, self.recurrent.prototype_width)

    def recompute(self) -> None:
        """Switch to activation checkpointing: the backward pass computes most activations again."""
        for module in self.modules():
            if hasattr(module, "again"):
                module.again = True  # type: ignore[assignment]

    def units(self) -> list[nn.Module]:
        """Return the parts that run one after another and hold most of the weights."""
        return [*self.recurrent.blocks, self.denoiser]

    def forward(
        self, values: Mapping[str, Tensor], tokens: Tensor, picks: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the prototypes for the conditions' `values`, name → [B, C], and return `errors`."""
        return self.errors(tokens, self.recurrent(values), picks, t, noise, self.starts(values))

    def starts(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """Return the start [B, L, D] of each network's predictions; None if they start from zero."""
        if self.mean is None:
            return None
        if len(self.mean) == 1:
            return self.mean.expand(len(next(iter(values.values()))), -1, -1)
        return torch.einsum("bs,sld->bld", values["permutation_state"].to(self.mean), self.mean)

    def errors(
        self,
        tokens: Tensor,
        prototypes_BLW: Tensor,
        picks: Tensor,
        t: Tensor,
        noise: Tensor,
        start_BLD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the squared prediction errors over the weights of the tokens, and the number of weights.

        The padding of tokens (NaN) does not count. `prototypes_BLW` come from `self.recurrent`, and `start_BLD` from
        `self.starts`, for B networks. `picks` [n] are indices into the B·L tokens of these networks, `tokens` [n, D]
        the tokens at these indices, `t` [n] their diffusion times and `noise` [n, D] their ε. If tokens share a time,
        `tokens` and `noise` are [G, n / G, D], `picks` is [G, n / G] and `t` is [G, 1].
        """
        prototypes = prototypes_BLW.flatten(0, 1)[picks]
        holds_weight = ~tokens.isnan()
        x0 = tokens.nan_to_num(0.0)
        row, token = picks // self.length, picks % self.length
        start = None if start_BLD is None else start_BLD[row, token]
        output = self._predict(diffusion.add_noise(x0, noise, t), t, prototypes, start, token)
        errors = (output - diffusion.training_target(x0, noise, t, self.target)).square() * holds_weight
        return errors.sum(), holds_weight.sum()

    def loss(
        self,
        tokens: Tensor,
        prototypes_BLW: Tensor,
        picks: Tensor,
        t: Tensor,
        noise: Tensor,
        start_BLD: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error: the sum from `errors` divided by the number of weights."""
        total, count = self.errors(tokens, prototypes_BLW, picks, t, noise, start_BLD)
        return total / count

    def _predict(
        self, x_D: Tensor, t: Tensor, prototype_W: Tensor, start_D: Tensor | None, tokens: Tensor | slice = slice(None)
    ) -> Tensor:
        """Return the prediction for noisy tokens `x_D` [..., D]; `tokens` are their indices in the network."""
        output_D = self.denoiser(x_D, t, prototype_W)
        if start_D is None or self.spread is None:
            return output_D
        return torch.addcmul(start_D, self.spread[tokens], output_D.to(start_D.dtype))

    def denoise(self, x_BLD: Tensor, t_B: Tensor, prototypes_BLW: Tensor, start_BLD: Tensor | None = None) -> Tensor:
        """Predict x_0 [B, L, D] from x_t [B, L, D] at times `t_B` [B], in one call of the denoiser."""
        t_B1 = t_B.unsqueeze(1)
        output_BLD = self._predict(x_BLD, t_B1, prototypes_BLW, start_BLD).to(x_BLD.dtype)
        return diffusion.predicted_x0(x_BLD, output_BLD, t_B1, self.target)

    @torch.inference_mode()
    def sample(
        self,
        values: Mapping[str, Tensor],
        *,
        solver: diffusion.Solver,
        steps: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
        precision: Precision = "float32",
    ) -> Tensor:
        """Sample tokens [B, L, D], on the CPU, of B new networks.

        The backbone runs once; the denoiser runs on parts of the tokens. `values` maps the name of a condition to
        [B, C]. Each network has its own generator. The noise, multiplied by `temperature`, is drawn on the CPU and
        copied, so every device starts from the same noise. `precision` applies to matrix products on a GPU; a CPU
        computes them in float32.
        """
        weight = next(self.parameters())

        def noise(length: int) -> Tensor:
            rows = [torch.randn(length, self.width, generator=generator) for generator in generators]
            return temperature * torch.stack(rows)

        def denoised(part: slice, x_BPD: Tensor) -> Tensor:
            prototypes_BPW = prototypes_BLW[:, part]
            start_BPD = None if start_BLD is None else start_BLD[:, part]
            return diffusion.sample(
                lambda x_BPD, t: self._predict(x_BPD, t, prototypes_BPW, start_BPD, part),
                x_BPD.to(weight),
                target=self.target,
                solver=solver,
                steps=steps,
                noise=lambda like: noise(like.shape[1]).to(like),
            )

        tokens_BLD = torch.empty(len(generators), self.length, self.width, dtype=weight.dtype)
        done: tuple[slice, Tensor] | None = None
        with bfloat16(weight.is_cuda and precision == "bfloat16", weight.device):
            on_device = {name: value.to(weight) for name, value in values.items()}
            prototypes_BLW, start_BLD = self.recurrent(on_device), self.starts(on_device)
            for start in range(0, self.length, TOGETHER):
                part = slice(start, min(start + TOGETHER, self.length))
                # The CPU draws this noise while a GPU still computes the previous part.
                x_BPD = noise(part.stop - start)
                if done:
                    tokens_BLD[:, done[0]] = done[1]
                done = part, denoised(part, x_BPD)
        assert done
        tokens_BLD[:, done[0]] = done[1]
        return tokens_BLD
