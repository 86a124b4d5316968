"""A model: new, on disk, loaded; and models whose backbone and denoiser no preset combines."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MINIATURE, PAPER, run_layers, write_tree
from safetensors.torch import load_file

from rpg.config.loading import load_params
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import build, fresh, load_rpg, read_config
from rpg.utils.errors import UserError
from rpg.utils.files import read_sealed, write_sealed


def test_model_that_starts_from_the_mean(finished: Path) -> None:
    """Without an answer of its own it gives the zoo's mean network; in units of the deviation of each tensor."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    model = fresh(experiment.model.model_copy(update={"start": "mean"}), experiment.diffusion, store).eval()
    tokens_NLD = torch.stack([store[index] for index in range(len(store))])
    mean_LD = tokens_NLD.nan_to_num().mean(0)
    torch.testing.assert_close(model.mean, mean_LD[None])
    for tensor in store.layout.tokenized:
        rows = slice(tensor.first, tensor.first + tensor.tokens)
        apart = (tokens_NLD - mean_LD)[:, rows]
        assert model.spread[rows].unique().item() == pytest.approx(apart[~apart.isnan()].square().mean().sqrt().item())
    x_BLD, t_B = torch.randn(2, *mean_LD.shape), torch.tensor([3, 900])
    values = {"permutation_state": torch.eye(2, len(store.seeds))}
    prototypes = model.recurrent(values)
    expected = mean_LD + model.spread * model.denoiser(x_BLD, t_B.unsqueeze(1), prototypes)
    torch.testing.assert_close(model.denoise(x_BLD, t_B, prototypes, model.starts(values)), expected)
    for parameter in model.denoiser.parameters():
        torch.nn.init.zeros_(parameter)
    options = {"solver": "dpm-solver++", "steps": 3, "generators": [torch.Generator().manual_seed(0)]}
    sampled = model.sample({"permutation_state": torch.eye(1, len(store.seeds))}, **options)
    torch.testing.assert_close(sampled[0], mean_LD)
    # The state dict holds what it starts from.
    again = build(experiment.model.model_copy(update={"start": "mean"}), experiment.diffusion, store)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.mean, mean_LD[None])


def test_model_that_starts_from_the_mean_of_each_state(finished: Path) -> None:
    """The spread is the deviation of each checkpoint about the mean of its own state."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    model = fresh(experiment.model.model_copy(update={"start": "state_mean"}), experiment.diffusion, store)
    tokens_NLD = torch.stack([store[index] for index in range(len(store))])
    states = torch.tensor([store.state(checkpoint) for checkpoint in store.checkpoints])
    means_SLD = torch.stack([tokens_NLD[states == state].nan_to_num().mean(0) for state in range(len(store.seeds))])
    torch.testing.assert_close(model.mean, means_SLD)
    for tensor in store.layout.tokenized:
        rows = slice(tensor.first, tensor.first + tensor.tokens)
        apart = (tokens_NLD - means_SLD[states])[:, rows]
        expected = apart[~apart.isnan()].square().mean().sqrt().item()
        assert model.spread[rows].unique().item() == pytest.approx(expected, rel=1e-4)


def test_loaded_model_holds_the_trained_weights(finished: Path) -> None:
    folder = finished / "results/mini/rpg"
    model = load_rpg(folder, TokenStore(finished / "results/mini/tokens"), torch.device("cpu"))
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert json.loads((folder / "config.json").read_text())["parameters"] == counted


def mixed(backbone: str, denoiser: str) -> dict:
    parts = {"paper": PAPER, "mamba2": MINIATURE["model"], "convolution": PAPER, "mlp": MINIATURE["model"]}
    return {
        **MINIATURE["model"],
        "backbone": parts[backbone]["backbone"],
        "denoiser": parts[denoiser]["denoiser"],
    }


@pytest.mark.parametrize("start", ["zero", "mean"])
@pytest.mark.parametrize(("backbone", "denoiser"), [("paper", "mlp"), ("mamba2", "convolution")])
def test_mixed_pair_is_trained_and_sampled(
    finished: Path, tmp_path: Path, backbone: str, denoiser: str, start: str
) -> None:
    for stage in ("zoo", "tokens"):
        shutil.copytree(finished / f"results/mini/{stage}", tmp_path / f"results/mini/{stage}")
    model = {**mixed(backbone, denoiser), "start": start}
    write_tree(tmp_path, mini={**MINIATURE, "model": model, "train": {**MINIATURE["train"], "steps": 10}})
    run_layers(tmp_path, "train", "sample")
    folder, store = tmp_path / "results/mini/rpg", TokenStore(tmp_path / "results/mini/tokens")
    assert read_config(folder).model.model_dump() == model
    rpg = load_rpg(folder, store, torch.device("cpu"))
    assert type(rpg.recurrent).__name__ == {"paper": "PaperBackbone", "mamba2": "ResidualBackbone"}[backbone]
    assert type(rpg.denoiser).__name__ == {"convolution": "ConvolutionDenoiser", "mlp": "MLPDenoiser"}[denoiser]
    original = load_file(next((tmp_path / "results/mini/zoo").rglob("*.safetensors")))
    samples = sorted((tmp_path / "results/mini/samples").glob("*.safetensors"))
    assert len(samples) == MINIATURE["sample"]["count"]
    for path in samples:
        sample = load_file(path)
        assert {name: tensor.shape for name, tensor in sample.items()} == {
            name: tensor.shape for name, tensor in original.items()
        }
        assert all(tensor.isfinite().all() for tensor in sample.values())


def test_model_of_an_older_form_is_refused_in_one_line(finished: Path, tmp_path: Path) -> None:
    """Before backbones and denoisers were blocks of their own, `flavor` named both."""
    folder = tmp_path / "rpg"
    shutil.copytree(finished / "results/mini/rpg", folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256")
    backbone, denoiser = (dict(config["model"].pop(part)) for part in ("backbone", "denoiser"))
    config["model"] |= {**backbone, **denoiser, "flavor": "residual", "recurrent": "mamba2", "denoiser": "mlp"}
    write_sealed(folder / "config.json", config)
    assert read_sealed(folder / "config.json", "rpg train")["model"]["flavor"] == "residual"
    with pytest.raises(UserError) as error:
        read_config(folder)
    assert str(error.value) == f"{folder}/config.json: not written by this version; run `rpg train` again"
