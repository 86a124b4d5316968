"""RPG: a recurrent model gives each token a prototype; a diffusion turns noise into the token, given its prototype."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rpg.model import diffusion
from rpg.model.denoiser import ConvDenoiser, MLPDenoiser, NoDenoiser
from rpg.model.recurrent import PaperRecurrent, ResidualRecurrent, Tokens
from rpg.params import PaperModel, ResidualModel


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
        params: PaperModel | ResidualModel,
        tokens: Tokens,
        *,
        width: int,
        sizes: Mapping[str, int],
        target: diffusion.Target,
    ) -> None:
        super().__init__()
        self.width, self.length, self.target = width, len(tokens), target
        starts = getattr(params, "start", "zero") == "mean"
        self.register_buffer("mean", torch.zeros(self.length, width) if starts else None)
        self.register_buffer("spread", torch.ones(self.length, 1) if starts else None)
        widths = {"state_width": params.state_width, "head_width": params.head_width, "expand": params.expand}
        self.recurrent: PaperRecurrent | ResidualRecurrent
        self.denoiser: ConvDenoiser | MLPDenoiser | NoDenoiser
        if isinstance(params, PaperModel):
            self.recurrent = PaperRecurrent(
                tokens,
                params.conditions,
                sizes,
                width=params.width,
                prototype_width=width,
                projection=params.prototype_projection,
                **widths,
            )
            self.denoiser = ConvDenoiser(width, params.channels, params.kernel)
        else:
            self.recurrent = ResidualRecurrent(
                tokens,
                params.conditions,
                sizes,
                recurrent=params.recurrent,
                positions=params.positions,
                width=params.width,
                blocks=params.blocks,
                **widths,
            )
            if params.denoiser == "none":
                self.denoiser = NoDenoiser(width, params.width)
            else:
                self.denoiser = MLPDenoiser(width, params.width, params.hidden, params.denoiser_blocks)

    def recompute(self) -> None:
        """From now on keep few activations for the backward pass, and compute the others again."""
        for module in self.modules():
            if hasattr(module, "again"):
                module.again = True  # type: ignore[assignment]

    def units(self) -> list[nn.Module]:
        """The parts that are computed one after another, and hold most of the weights."""
        return [*self.recurrent.blocks, self.denoiser]

    def forward(
        self, values: Mapping[str, Tensor], tokens_BLD: Tensor, picks: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`errors` of tokens [B, L, D] that were made under the conditions `values`, name → [B, C]."""
        return self.errors(tokens_BLD, self.recurrent(values), picks, t, noise)

    def errors(
        self, tokens_BLD: Tensor, prototypes_BLW: Tensor, picks: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the squared errors of the prediction, over the weights (not the padding, NaN) of the picked tokens.

        And the number of these weights. `prototypes_BLW` are those of `self.recurrent` for the conditions of the tokens
        [B, L, D]; `picks` [n] are indices into the B·L tokens, `t` [n] their diffusion times, `noise` [n, D] their ε.
        Where tokens share a time, `picks` are [G, n / G], `t` [G, 1] and `noise` [G, n / G, D].
        """
        prototypes = prototypes_BLW.flatten(0, 1)[picks]
        tokens = tokens_BLD.flatten(0, 1)[picks]
        holds_weight = ~tokens.isnan()
        x0 = tokens.nan_to_num(0.0)
        output = self._answer(diffusion.add_noise(x0, noise, t), t, prototypes, picks % self.length)
        errors = (output - diffusion.training_target(x0, noise, t, self.target)).square() * holds_weight
        return errors.sum(), holds_weight.sum()

    def loss(self, tokens_BLD: Tensor, prototypes_BLW: Tensor, picks: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean of the squared errors that `errors` adds up."""
        total, count = self.errors(tokens_BLD, prototypes_BLW, picks, t, noise)
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
    ) -> Tensor:
        """Tokens [B, L, D] of B new networks; the prototypes are computed once.

        `values`: name of a condition → [B, C]. The noise of each network, times `temperature`, is drawn from its own
        generator, on the CPU, and copied, so that every device starts from the same.
        """
        weight = next(self.parameters())

        def noise(like: Tensor) -> Tensor:
            rows = [torch.randn(self.length, self.width, generator=generator) for generator in generators]
            return temperature * torch.stack(rows).to(like)

        prototypes_BLW = self.recurrent({name: value.to(weight) for name, value in values.items()})
        return diffusion.sample(
            lambda x_BLD, t: self._answer(x_BLD, t, prototypes_BLW),
            noise(weight),
            target=self.target,
            solver=solver,
            steps=steps,
            noise=noise,
        )
