from pathlib import Path

import torch

from rpg.hypernetwork import Generated
from rpg.params import load_params
from rpg.tasks import load_task
from rpg.tokens import TokenStore
from rpg.train import build

CPU = torch.device("cpu")


def test_it_starts_as_the_mean_of_the_zoo_s_networks(tasks: Path) -> None:
    """Predictions of 0 are normalised weights of 0: each tensor's mean."""
    experiment = load_params(tasks / "params.yaml").experiment("tasks")
    store = TokenStore(tasks / "results/tasks/tokens")
    model = build(experiment.model, experiment.diffusion, store)
    model.denoiser.start_at_zero()
    generated = Generated(load_task(experiment.task, None), store, experiment.model.conditions, experiment.tune, CPU)
    _, values = generated.draw(3, torch.Generator().manual_seed(0))
    tokens_BLD = generated.from_noise(model, model.recurrent(values), torch.Generator().manual_seed(1))
    assert torch.count_nonzero(tokens_BLD) == 0
    weights = store.detokenise(tokens_BLD.detach(), torch.zeros(3, dtype=torch.long))
    k = [tensor.name for tensor in store.layout.tokenised].index("conv1.0.weight")
    torch.testing.assert_close(weights["conv1.0.weight"], store.stats.mean[k].float().expand(3, 4, 1, 3, 3))


def test_conv_denoiser_can_start_at_zero() -> None:
    from rpg.model.denoiser import ConvDenoiser

    denoiser = ConvDenoiser(16, [1, 4, 8, 4, 1], 3)
    x, t = torch.randn(5, 16), torch.arange(5)
    assert denoiser(x, t, x).abs().max() > 0
    denoiser.start_at_zero()
    assert torch.count_nonzero(denoiser(x, t, x)) == 0
