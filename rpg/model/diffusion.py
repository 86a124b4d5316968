"""The diffusion process on single tokens: noising, prediction targets, and solvers for any number of steps.

    x_t = α_t x_0 + σ_t ε,    α_t² = ᾱ_t = Π_{s ≤ t} (1 - β_s),    σ_t² = 1 - ᾱ_t

T = 1000 steps; β is linear from 1e-4 to 0.02; t counts from 0 (DDPM, Ho et al. 2020, as RPG uses it). The solvers are
DDPM ancestral sampling and DDIM (Song et al. 2021), both on a subsequence of the T steps, and DPM-Solver++(2M) (Lu et
al. 2022). All solvers end at ᾱ = 1 exactly, so the last step adds no noise and returns the prediction of x_0.
"""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

T = 1000
Target = Literal["epsilon", "x0", "v"]
Solver = Literal["ddpm", "ddim", "dpm-solver++"]
# (x [..., D], t that broadcasts to [...]) → the network's prediction of the training target [..., D].
Predict = Callable[[Tensor, Tensor], Tensor]
# Returns standard normal noise of the argument's shape.
Noise = Callable[[Tensor], Tensor]

ALPHA_BAR_T = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), dim=0)


def _levels(t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return α_t and σ_t [..., 1] for times `t` [...], in the dtype of `like`. Times may broadcast in this module."""
    alpha_bar = ALPHA_BAR_T.to(t.device)[t].unsqueeze(-1)
    return alpha_bar.sqrt().to(like.dtype), (1 - alpha_bar).sqrt().to(like.dtype)


def add_noise(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x_t [..., D] from x_0 and ε [..., D] at times `t` [...]."""
    alpha, sigma = _levels(t, x0)
    return alpha * x0 + sigma * noise


def training_target(x0: Tensor, noise: Tensor, t: Tensor, target: Target) -> Tensor:
    """Return the target of the prediction: ε, x_0, or v = α ε - σ x_0 (Salimans and Ho 2022)."""
    if target == "epsilon":
        return noise
    if target == "x0":
        return x0
    alpha, sigma = _levels(t, x0)
    return alpha * noise - sigma * x0


def predicted_x0(x: Tensor, output: Tensor, t: Tensor, target: Target) -> Tensor:
    """Return x_0 [..., D], computed from the network's `output` for `x` at times `t`."""
    alpha, sigma = _levels(t, x)
    if target == "epsilon":
        return (x - sigma * output) / alpha
    if target == "x0":
        return output
    return alpha * x - sigma * output


@cache
def timesteps(steps: int) -> tuple[int, ...]:
    """Return `steps` evenly spread, rounded times from T - 1 down to 0; a single step is at T - 1.

    Raises ValueError unless `steps` is in 1..T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"the number of sampling steps must be in 1..{T}, not {steps}")
    return tuple(round(t) for t in torch.linspace(T - 1, 0, steps, dtype=torch.float64).tolist())


def sample(predict: Predict, x: Tensor, *, target: Target, solver: Solver, steps: int, noise: Noise) -> Tensor:
    """Denoise standard normal `x` [..., D] in `steps` calls of `predict`; return x_0 [..., D].

    Only the DDPM solver calls `noise`: once in each step except the last.
    """
    times = timesteps(steps)
    # ᾱ = 1 after the last step, so this step adds no noise and leaves none.
    levels = [_alpha_bar(t) for t in times] + [1.0]
    earlier: tuple[float, Tensor] | None = None
    for t, now, then in zip(times, levels, levels[1:], strict=False):
        t_1 = torch.full([1] * (x.ndim - 1), t, device=x.device)
        x0 = predicted_x0(x, predict(x, t_1), t_1, target)
        if then == 1.0:
            return x0
        if solver == "ddim":
            epsilon = (x - now**0.5 * x0) / (1 - now) ** 0.5
            x = then**0.5 * x0 + (1 - then) ** 0.5 * epsilon
        elif solver == "ddpm":
            beta = 1 - now / then
            mean = then**0.5 * beta / (1 - now) * x0 + (1 - beta) ** 0.5 * (1 - then) / (1 - now) * x
            x = mean + (beta * (1 - then) / (1 - now)) ** 0.5 * noise(x)
        else:
            x, earlier = _dpm_solver_step(x, x0, now, then, earlier)
    raise AssertionError("the last level is 1")


def _dpm_solver_step(
    x: Tensor, x0: Tensor, now: float, then: float, earlier: tuple[float, Tensor] | None
) -> tuple[Tensor, tuple[float, Tensor]]:
    """Take one step of DPM-Solver++(2M), Lu et al. 2022, algorithm 2, in λ = log(α / σ).

    `earlier` is (h, x0) of the previous step.
    """
    h = _log_snr(then) - _log_snr(now)
    data = x0
    if earlier is not None:
        ratio = earlier[0] / h
        data = (1 + 0.5 / ratio) * x0 - 0.5 / ratio * earlier[1]
    shrink = ((1 - then) / (1 - now)) ** 0.5
    x = shrink * x - then**0.5 * _expm1(-h) * data
    return x, (h, x0)


# Numbers of the schedule. Once cached, they are constants for a program that records a sampler's operations.
@cache
def _alpha_bar(t: int) -> float:
    return ALPHA_BAR_T[t].item()


@cache
def _log_snr(level: float) -> float:
    return 0.5 * torch.tensor(level / (1 - level), dtype=torch.float64).log().item()


@cache
def _expm1(x: float) -> float:
    return torch.expm1(torch.tensor(x, dtype=torch.float64)).item()
