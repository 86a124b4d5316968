"""Models whose backbone and denoiser no preset combines, from params.yaml to samples, and models of an older form."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MINIATURE, PAPER, run_layers, write_tree
from safetensors.torch import load_file

from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import load_rpg, read_config
from rpg.utils.errors import UserError
from rpg.utils.files import read_sealed, write_sealed


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
