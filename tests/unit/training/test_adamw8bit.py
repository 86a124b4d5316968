"""Moments of 8 bits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from together import changed
from trainings import after, new_training

from rpg.config.loading import load_params
from rpg.tokenizer.store import TokenStore


def test_moments_of_8_bits_have_the_betas_of_params(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    experiment = changed(experiment, betas=[0.7, 0.9], optimizer="adamw8bit")
    training = new_training(experiment, TokenStore(finished / "results/mini/tokens"))
    assert [group["betas"] for group in training.optimizer.param_groups] == [(0.7, 0.9)]


def test_moments_of_8_bits_go_on_bit_by_bit(finished: Path, tmp_path: Path) -> None:
    experiment = changed(load_params(finished / "params.yaml").experiment("mini"), optimizer="adamw8bit")
    store = TokenStore(finished / "results/mini/tokens")
    torch.manual_seed(0)
    training = new_training(experiment, store)
    after(training, 2)
    training.save(tmp_path / "state.safetensors", "the same")
    whole = after(training, 2)
    resumed = new_training(experiment, store)
    assert resumed.resume(tmp_path / "state.safetensors", "the same")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in after(resumed, 2).items())
    saved = load_file(tmp_path / "state.safetensors")
    codes = [tensor for name, tensor in saved.items() if name.endswith("exp_avg.codes")]
    # torchao leaves smaller tensors as they are.
    assert {tensor.dtype for tensor in codes} == {torch.uint8}
    assert min(tensor.numel() for tensor in codes) >= 4096


def test_moments_of_8_bits_train_as_well(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    last = []
    for optimizer in ("adamw", "adamw8bit"):
        torch.manual_seed(0)
        training = new_training(changed(experiment, optimizer=optimizer), store)
        last.append(sum(training.one_step().item() for _ in range(40)) / 40)
    assert last[1] == pytest.approx(last[0], rel=0.02)
