"""RPG: a recurrent model gives each token a prototype; a diffusion turns noise into the token, given its prototype."""

import torch
from torch import Tensor, nn

from rpg.model import diffusion
from rpg.model.denoiser import ConvDenoiser, MLPDenoiser
from rpg.model.recurrent import PaperRecurrent, ResidualRecurrent
from rpg.params import PaperModel, ResidualModel


class RPG(nn.Module):
    """The generator for one architecture: `positions` [L, 2] of its tokens, width D, S permutation states."""

    def __init__(
        self,
        params: PaperModel | ResidualModel,
        positions_L2: Tensor,
        *,
        width: int,
        states: int,
        target: diffusion.Target,
        task_width: int = 0,
    ) -> None:
        super().__init__()
        self.width, self.length, self.target = width, len(positions_L2), target
        sizes = {"state_width": params.state_width, "head_width": params.head_width, "expand": params.expand}
        self.recurrent: nn.Module
        self.denoiser: nn.Module
        if isinstance(params, PaperModel):
            self.recurrent = PaperRecurrent(
                positions_L2, states, width=params.width, prototype_width=width, task_width=task_width, **sizes
            )
            self.denoiser = ConvDenoiser(width, params.channels, params.kernel)
        else:
            self.recurrent = ResidualRecurrent(
                positions_L2, states, width=params.width, blocks=params.blocks, task_width=task_width, **sizes
            )
            self.denoiser = MLPDenoiser(width, params.width, params.hidden, params.denoiser_blocks)

    def loss(
        self,
        tokens_BLD: Tensor,
        states_B: Tensor,
        picks: Tensor,
        t: Tensor,
        noise: Tensor,
        task_BC: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the prediction over the weights (not the padding, NaN) of the picked tokens.

        `picks` [n] are indices into the B·L tokens, `t` [n] their diffusion times, `noise` [n, D] their ε.
        """
        prototypes = self.recurrent(states_B, task_BC).flatten(0, 1)[picks]
        tokens = tokens_BLD.flatten(0, 1)[picks]
        holds_weight = ~tokens.isnan()
        x0 = tokens.nan_to_num(0.0)
        output = self.denoiser(diffusion.add_noise(x0, noise, t), t, prototypes)
        errors = (output - diffusion.training_target(x0, noise, t, self.target)).square() * holds_weight
        return errors.sum() / holds_weight.sum()

    @torch.inference_mode()
    def sample(
        self,
        state: int,
        *,
        solver: diffusion.Solver,
        steps: int,
        generator: torch.Generator,
        task_C: Tensor | None = None,
    ) -> Tensor:
        """Tokens [L, D] of one new network of permutation state `state`; the prototypes are computed once.

        Noise is drawn from `generator`, on the CPU, and copied, so that every device starts from the same.
        """
        weight = next(self.parameters())

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        states_B = torch.tensor([state], device=weight.device)
        task_BC = None if task_C is None else task_C.unsqueeze(0).to(weight)
        prototypes_LW = self.recurrent(states_B, task_BC).squeeze(0)
        x_LD = noise(torch.empty(self.length, self.width, device=weight.device, dtype=weight.dtype))
        return diffusion.sample(
            lambda x, t: self.denoiser(x, t, prototypes_LW),
            x_LD,
            target=self.target,
            solver=solver,
            steps=steps,
            noise=noise,
        )
