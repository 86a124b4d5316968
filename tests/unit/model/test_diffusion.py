"""Solvers against diffusers' schedulers and against a Gaussian whose denoiser is known in closed form."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from rpg.model import diffusion

SOLVERS = ["ddpm", "ddim", "dpm-solver++"]


def no_noise(like: Tensor) -> Tensor:
    return torch.zeros_like(like)


def predictor(target: str):
    """An arbitrary smooth network: the same function whatever it is said to predict."""
    return lambda x, t: torch.tanh(0.7 * x + 0.001 * t.unsqueeze(-1) - 0.3)


@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_noising_agrees_with_its_inverse(target: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 50, 8, generator=draw, dtype=torch.float64)
    t = torch.randint(1000, (50,), generator=draw)
    x = diffusion.add_noise(x0, noise, t)
    output = diffusion.training_target(x0, noise, t, target)
    torch.testing.assert_close(diffusion.predicted_x0(x, output, t, target), x0, rtol=1e-9, atol=1e-9)


def test_noising_equals_diffusers() -> None:
    scheduler = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x0, noise, t = torch.randn(10, 4), torch.randn(10, 4), torch.arange(0, 1000, 100)
    torch.testing.assert_close(
        diffusion.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        diffusion.training_target(x0, noise, t, "v"), scheduler.get_velocity(x0, noise, t), rtol=1e-4, atol=1e-5
    )


def by_diffusers(scheduler, predict, x: Tensor, times: list[int]) -> Tensor:
    for t in times:
        output = predict(x, torch.full(x.shape[:-1], t))
        x = scheduler.step(output, t, x).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 33])
@pytest.mark.parametrize(("target", "theirs"), [("epsilon", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
def test_dpm_solver_equals_diffusers(steps: int, target: str, theirs: str) -> None:
    scheduler = DPMSolverMultistepScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=theirs,
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        lower_order_final=False,
        timestep_spacing="linspace",
    )
    times = list(diffusion.timesteps(steps))
    scheduler.set_timesteps(timesteps=times)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    ours = diffusion.sample(predictor(target), x, target=target, solver="dpm-solver++", steps=steps, noise=no_noise)
    torch.testing.assert_close(ours, by_diffusers(scheduler, predictor(target), x, times), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_ddim_equals_diffusers_where_its_grid_is_right(target: str) -> None:
    """diffusers steps by T // steps whatever the grid; with a 'trailing' grid of a divisor of T both take the same."""
    names = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
    scheduler = DDIMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=names[target],
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(1000)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    ours = diffusion.sample(predictor(target), x, target=target, solver="ddim", steps=1000, noise=no_noise)
    theirs = by_diffusers(scheduler, predictor(target), x, scheduler.timesteps.tolist())
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 60, 333, 999, 1000])
def test_times_run_from_the_noisiest_to_the_cleanest(steps: int) -> None:
    times = list(diffusion.timesteps(steps))
    assert len(set(times)) == steps
    assert times == sorted(times, reverse=True)
    assert times[0] == 999
    assert times[-1] == (0 if steps > 1 else 999)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps"):
        diffusion.timesteps(steps)


def gaussian(mean: float, std: float):
    """The exact E[x_0 | x_t] of data N(mean, std²)."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = diffusion.ALPHA_BAR_T[t].unsqueeze(-1)
        gain = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        return mean + gain * (x - alpha_bar.sqrt() * mean)

    return predict


@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"), [("ddpm", 1000, 0.01), ("ddim", 500, 0.01), ("dpm-solver++", 500, 0.01)]
)
def test_exact_denoiser_gives_back_its_distribution(solver: str, steps: int, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw, dtype=like.dtype)

    x = torch.randn(200_000, 1, generator=draw, dtype=torch.float64)
    samples = diffusion.sample(gaussian(2.0, 0.5), x, target="x0", solver=solver, steps=steps, noise=noise)
    assert abs(samples.mean().item() - 2.0) < tolerance
    assert abs(samples.std().item() - 0.5) < tolerance


@pytest.mark.parametrize("solver", SOLVERS)
def test_last_step_adds_no_noise_and_calls_are_counted(solver: str) -> None:
    calls = {"predict": 0, "noise": 0}

    def predict(x: Tensor, t: Tensor) -> Tensor:
        calls["predict"] += 1
        return torch.full_like(x, 3.0)

    def noise(like: Tensor) -> Tensor:
        calls["noise"] += 1
        return torch.ones_like(like)

    out = diffusion.sample(predict, torch.randn(5, 4), target="x0", solver=solver, steps=6, noise=noise)
    assert (out == 3.0).all()
    assert calls == {"predict": 6, "noise": 5 if solver == "ddpm" else 0}
