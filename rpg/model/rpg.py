"""RPG: a backbone gives each token a prototype; a diffusion turns noise into the token, given its prototype."""

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

# Tokens of each network that are denoised at once: at the paper's widths what a denoiser has in between is 100 times
# as large as they are.
TOGETHER = 512


class RPG(nn.Module):
    """The generator for one architecture, whose `tokens` have width D.

    `sizes` gives, by name, how many values each of `params.conditions` has. With `params.start: mean` the denoiser's
    answer is in units of `spread` [L, 1] about `mean` [L, D], which a training sets before its first step and the state
    dict holds.
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
        starts = params.start == "mean"
        self.register_buffer("mean", torch.zeros(self.length, width) if starts else None)
        self.register_buffer("spread", torch.ones(self.length, 1) if starts else None)
        backbone, denoiser = params.backbone, params.denoiser
        # Trained models hold the names `recurrent.` and `denoiser.` in their state dicts, so they stay.
        self.recurrent: Backbone = BACKBONES[backbone.kind](backbone, tokens, params.conditions, sizes, width)
        self.denoiser: Denoiser = DENOISERS[denoiser.kind](denoiser, width, self.recurrent.prototype_width)

    def recompute(self) -> None:
        """From now on keep few activations for the backward pass, and compute the others again."""
        for module in self.modules():
            if hasattr(module, "again"):
                module.again = True  # type: ignore[assignment]

    def units(self) -> list[nn.Module]:
        """The parts that are computed one after another, and hold most of the weights."""
        return [*self.recurrent.blocks, self.denoiser]

    def forward(
        self, values: Mapping[str, Tensor], tokens: Tensor, picks: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`errors` of tokens of B networks that were made under the conditions `values`, name → [B, C]."""
        return self.errors(tokens, self.recurrent(values), picks, t, noise)

    def errors(
        self, tokens: Tensor, prototypes_BLW: Tensor, picks: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the squared errors of the prediction, over the weights (not the padding, NaN) of the tokens.

        And the number of these weights. `prototypes_BLW` are those of `self.recurrent` for the conditions of the B
        networks; `tokens` [n, D] are number `picks` [n] of their B·L tokens, `t` [n] their diffusion times, `noise`
        [n, D] their ε. Where tokens share a time, `tokens` and `noise` are [G, n / G, D], `picks` [G, n / G] and `t`
        [G, 1].
        """
        prototypes = prototypes_BLW.flatten(0, 1)[picks]
        holds_weight = ~tokens.isnan()
        x0 = tokens.nan_to_num(0.0)
        output = self._answer(diffusion.add_noise(x0, noise, t), t, prototypes, picks % self.length)
        errors = (output - diffusion.training_target(x0, noise, t, self.target)).square() * holds_weight
        return errors.sum(), holds_weight.sum()

    def loss(self, tokens: Tensor, prototypes_BLW: Tensor, picks: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean of the squared errors that `errors` adds up."""
        total, count = self.errors(tokens, prototypes_BLW, picks, t, noise)
        return total / count

    def _answer(self, x_D: Tensor, t: Tensor, prototype_W: Tensor, tokens: Tensor | slice = slice(None)) -> Tensor:
        """What is predicted of `x_D` [..., D], which are noisy tokens number `tokens` of a network."""
        output_D = self.denoiser(x_D, t, prototype_W)
        if self.mean is None or self.spread is None:
            return output_D
        return torch.addcmul(self.mean[tokens], self.spread[tokens], output_D.to(self.mean.dtype))

    def denoise(self, x_BLD: Tensor, t_B: Tensor, prototypes_BLW: Tensor) -> Tensor:
        """x_0 [B, L, D] that the model predicts from x_t [B, L, D] at times `t_B`, in one call of the denoiser."""
        t_B1 = t_B.unsqueeze(1)
        output_BLD = self._answer(x_BLD, t_B1, prototypes_BLW).to(x_BLD.dtype)
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
        """Tokens [B, L, D], on the CPU, of B new networks; prototypes are computed once, tokens denoised by parts.

        `values`: name of a condition → [B, C]. The noise of each network, times `temperature`, is drawn from its own
        generator, on the CPU, and copied, so that every device starts from the same. `precision` is that of products on
        a GPU; on a CPU they are of float32.
        """
        weight = next(self.parameters())

        def noise(length: int) -> Tensor:
            rows = [torch.randn(length, self.width, generator=generator) for generator in generators]
            return temperature * torch.stack(rows)

        def denoised(part: slice, x_BPD: Tensor) -> Tensor:
            prototypes_BPW = prototypes_BLW[:, part]
            return diffusion.sample(
                lambda x_BPD, t: self._answer(x_BPD, t, prototypes_BPW, part),
                x_BPD.to(weight),
                target=self.target,
                solver=solver,
                steps=steps,
                noise=lambda like: noise(like.shape[1]).to(like),
            )

        tokens_BLD = torch.empty(len(generators), self.length, self.width, dtype=weight.dtype)
        done: tuple[slice, Tensor] | None = None
        with bfloat16(weight.is_cuda and precision == "bfloat16", weight.device):
            prototypes_BLW = self.recurrent({name: value.to(weight) for name, value in values.items()})
            for start in range(0, self.length, TOGETHER):
                part = slice(start, min(start + TOGETHER, self.length))
                # Drawn while a GPU still computes the part before.
                x_BPD = noise(part.stop - start)
                if done:
                    tokens_BLD[:, done[0]] = done[1]
                done = part, denoised(part, x_BPD)
        assert done
        tokens_BLD[:, done[0]] = done[1]
        return tokens_BLD
