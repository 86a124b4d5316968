"""A model: new, on disk and loaded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpg.config.loading import load_params
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import build, fresh, load_rpg


def test_model_that_starts_from_the_mean(finished: Path) -> None:
    """Without an answer of its own it gives the zoo's mean network; in units of the deviation of each tensor."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    model = fresh(experiment.model.model_copy(update={"start": "mean"}), experiment.diffusion, store).eval()
    tokens_NLD = torch.stack([store[index] for index in range(len(store))])
    mean_LD = tokens_NLD.nan_to_num().mean(0)
    torch.testing.assert_close(model.mean, mean_LD)
    for tensor in store.layout.tokenised:
        rows = slice(tensor.first, tensor.first + tensor.tokens)
        apart = (tokens_NLD - mean_LD)[:, rows]
        assert model.spread[rows].unique().item() == pytest.approx(apart[~apart.isnan()].square().mean().sqrt().item())
    x_BLD, t_B = torch.randn(2, *mean_LD.shape), torch.tensor([3, 900])
    prototypes = model.recurrent({"permutation_state": torch.eye(2, len(store.seeds))})
    expected = mean_LD + model.spread * model.denoiser(x_BLD, t_B.unsqueeze(1), prototypes)
    torch.testing.assert_close(model.denoise(x_BLD, t_B, prototypes), expected)
    for parameter in model.denoiser.parameters():
        torch.nn.init.zeros_(parameter)
    options = {"solver": "dpm-solver++", "steps": 3, "generators": [torch.Generator().manual_seed(0)]}
    sampled = model.sample({"permutation_state": torch.eye(1, len(store.seeds))}, **options)
    torch.testing.assert_close(sampled[0], mean_LD)
    # The state dict holds what it starts from.
    again = build(experiment.model.model_copy(update={"start": "mean"}), experiment.diffusion, store)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.mean, mean_LD)


def test_loaded_model_holds_the_trained_weights(finished: Path) -> None:
    folder = finished / "results/mini/rpg"
    model = load_rpg(folder, TokenStore(finished / "results/mini/tokens"), torch.device("cpu"))
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert json.loads((folder / "config.json").read_text())["parameters"] == counted
