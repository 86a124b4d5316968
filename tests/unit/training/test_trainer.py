"""The loop of every training: its steps, its state, and what stops it."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import run_layers, write_params
from safetensors.torch import load_file
from together import changed
from trainings import ARTIFACTS, after, artifacts, new_training, train

from rpg.config.loading import load_params
from rpg.tokenizer.store import TokenStore
from rpg.training.train import train_rpg
from rpg.training.trainer import Training, learning_rate
from rpg.utils.device import device, has_bfloat16
from rpg.utils.errors import Diverged


def test_learning_rate_rises_then_falls_along_a_cosine(finished: Path) -> None:
    params = load_params(finished / "params.yaml").experiment("mini").train
    assert [learning_rate(params, step) for step in (1, 2, 4, 22, 40)] == pytest.approx(
        [0.003 / 4, 0.003 / 2, 0.003, 0.0015, 0.0]
    )


def test_average_of_the_weights_is_an_ema(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    training = new_training(experiment, TokenStore(finished / "results/mini/tokens"))
    name = "denoiser.skip.weight"
    training.one_step()
    expected = training.model.state_dict()[name].clone()
    for _ in range(3):
        training.one_step()
        expected = 0.9 * expected + 0.1 * training.model.state_dict()[name]
    torch.testing.assert_close(training.averaged()[name], expected)


def test_gradients_in_bfloat16_are_near_those_in_float32(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    gradients = []
    for precision in ("float32", "bfloat16"):
        block = experiment.train.model_copy(update={"precision": precision})
        torch.manual_seed(0)
        training = new_training(experiment.model_copy(update={"train": block}), store)
        training.one_step()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in training.model.parameters()]))
    exact, rounded = gradients
    assert (rounded - exact).norm() <= 2e-2 * exact.norm()
    assert torch.equal(rounded, exact) != has_bfloat16(device())


@pytest.mark.parametrize("model", ["paper", "residual"])
def test_checkpointing_changes_neither_loss_nor_gradient(finished: Path, model: str) -> None:
    """Nor does it count a batch twice in BatchNorm's statistics."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    losses, gradients = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        training = new_training(changed(experiment, model, checkpointing=checkpointing), store)
        losses.append(training.one_step())
        gradients.append([parameter.grad for parameter in training.model.parameters()])
    assert torch.equal(*losses)
    # A sum over tokens is one of sums over parts of them.
    largest = max(gradient.abs().max() for gradient in gradients[0])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-6 * float(largest))
    assert model == "residual" or training.model.state_dict()["denoiser.encoder.0.1.0.num_batches_tracked"] == 1


def test_checkpointing_keeps_fewer_activations(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    kept = []
    for checkpointing in (False, True):
        training = new_training(changed(experiment, "paper", checkpointing=checkpointing), store)
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            training.loss.compute(training.model, training.loss.draw(torch.Generator().manual_seed(0)))
        kept.append(sum(sizes))
    assert kept[1] < 0.6 * kept[0]


def test_without_ema_no_second_copy_of_the_weights_is_kept(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    training = new_training(changed(experiment, ema=0.0), store)
    parameters = dict(training.model.named_parameters())
    assert all(tensor.data_ptr() == parameters[name].data_ptr() for name, tensor in training.averages.items())
    weights = after(training, 2)
    assert all(torch.equal(weights[name], tensor) for name, tensor in training.model.state_dict().items())


def test_a_gradient_clip_of_null_does_not_clip(finished: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    never, rarely, always = (new_training(changed(experiment, gradient_clip=clip), store) for clip in (None, 1e9, 1e-9))
    for training in (rarely, always):
        training.model.load_state_dict(never.model.state_dict())
    never, rarely, always = (after(training, 2) for training in (never, rarely, always))
    assert all(torch.equal(never[name], tensor) for name, tensor in rarely.items())
    assert not all(torch.equal(never[name], tensor) for name, tensor in always.items())


def test_steps_are_those_of_adam_with_the_betas_of_params(finished: Path) -> None:
    """The oracle: Adam (Kingma and Ba 2015, algorithm 1) written out, on one of the weights."""
    experiment = changed(load_params(finished / "params.yaml").experiment("mini"), betas=[0.7, 0.9], gradient_clip=1e9)
    training = new_training(experiment, TokenStore(finished / "results/mini/tokens"))
    parameter = training.model.recurrent.blocks[0].modulation.weight
    expected = parameter.detach().double().clone()
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in range(1, 4):
        training.one_step()
        assert parameter.grad is not None
        gradient = parameter.grad.double()
        first, second = 0.7 * first + 0.3 * gradient, 0.9 * second + 0.1 * gradient.square()
        root = (second / (1 - 0.9**step)).sqrt() + 1e-8
        expected -= learning_rate(experiment.train, step) * first / (1 - 0.7**step) / root
        torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-6, rtol=1e-5)


def test_steps_that_are_drawn_ahead_are_the_same(finished: Path) -> None:
    """As for a GPU, in threads; bit for bit, and again from a step that was not the next."""
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    plain = new_training(experiment, store)
    ahead = new_training(experiment, store)
    ahead.model.load_state_dict(plain.model.state_dict())
    with ThreadPoolExecutor(3) as ahead._drawing:
        for _ in range(6):
            torch.testing.assert_close(ahead.one_step(), plain.one_step(), rtol=0, atol=0)
        plain.step = ahead.step = 20
        torch.testing.assert_close(ahead.one_step(), plain.one_step(), rtol=0, atol=0)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 10, 19, 35, 40])
def test_interrupted_training_ends_in_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = artifacts(finished / "results/mini/rpg")
    step = Training.one_step

    def stopping(self: Training) -> torch.Tensor:
        if self.step + 1 == stop_at:
            raise _Stop
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "one_step", stopping)
        with pytest.raises(_Stop):
            train(finished, tmp_path / "rpg")
    saved = tmp_path / "rpg/state/state.safetensors"
    assert saved.exists() == (stop_at > 10)
    assert train(finished, tmp_path / "rpg") == whole


def test_state_of_other_params_is_not_resumed(finished: Path, tmp_path: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    store = TokenStore(finished / "results/mini/tokens")
    training = new_training(experiment, store)
    training.one_step()
    training.save(tmp_path / "rpg/state/state.safetensors", "another fingerprint")
    assert train(finished, tmp_path / "rpg") == artifacts(finished / "results/mini/rpg")


def test_state_of_other_code_is_not_resumed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Training.one_step

    def stopping(self: Training) -> torch.Tensor:
        if self.step + 1 == 25:
            raise _Stop
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "one_step", stopping)
        # A state that another code left, whose weights would end in other bytes.
        patch.setattr("rpg.training.train.code_digest", lambda *_: "that of older code")
        patch.setattr("rpg.training.trainer.Training.rate", lambda self, step: 0.0)
        with pytest.raises(_Stop):
            train(finished, tmp_path / "rpg")
    state = tmp_path / "rpg/state/state.safetensors"
    assert state.exists()
    assert train(finished, tmp_path / "rpg") == artifacts(finished / "results/mini/rpg")
    shown = capsys.readouterr().out
    assert f"{state}: params, code or inputs have changed since this state; starting over" in shown
    assert "going on from step" not in shown


def test_damaged_state_starts_over(finished: Path, tmp_path: Path) -> None:
    state = tmp_path / "rpg/state/state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"half a file")
    assert train(finished, tmp_path / "rpg") == artifacts(finished / "results/mini/rpg")


@pytest.mark.integration
def test_kill_9_then_the_same_command(finished: Path, tmp_path: Path) -> None:
    """A real process, really killed once it has saved a state."""
    write_params(tmp_path, train={"steps": 400})
    (tmp_path / "results/mini").mkdir(parents=True)
    (tmp_path / "results/mini/tokens").symlink_to(finished / "results/mini/tokens")
    folder, state = tmp_path / "results/mini/rpg", tmp_path / "results/mini/rpg/state/state.safetensors"
    run_layers(tmp_path, "train")
    whole = artifacts(folder)
    for name in ARTIFACTS:
        (folder / name).unlink()
    command = [sys.executable, "-m", "rpg", "train", "--experiment", "mini"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert state.exists()
    assert not any((folder / name).exists() for name in ARTIFACTS)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "going on from step" in again.stdout
    assert artifacts(folder) == whole


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_the_state_and_the_same_command_goes_on(finished: Path, tmp_path: Path, number: int) -> None:
    # No state but that of the signal.
    write_params(tmp_path, train={"steps": 400, "state_every": 400})
    (tmp_path / "results/mini").mkdir(parents=True)
    (tmp_path / "results/mini/tokens").symlink_to(finished / "results/mini/tokens")
    folder = tmp_path / "results/mini/rpg"
    command = [sys.executable, "-m", "rpg", "train", "--experiment", "mini"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert "40 of 400" in process.stderr.readline()
    # Twice, as from a cluster and from what launched several processes.
    process.send_signal(number)
    process.send_signal(number)
    told, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    (step,) = re.findall(r"^train: stopped at step (\d+), which the same command goes on from$", told, re.M)
    assert int(step) % 10 == 0
    assert "Traceback" not in errors
    assert [path.name for path in folder.iterdir()] == ["state"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"going on from step {step}" in again.stdout
    resumed = artifacts(folder)
    shutil.rmtree(folder)
    run_layers(tmp_path, "train")
    assert artifacts(folder) == resumed


def test_training_that_diverges_says_where_and_what_to_change(finished: Path, tmp_path: Path) -> None:
    write_params(tmp_path, train={"learning_rate": 1e30, "gradient_clip": 1e30, "warmup": 0.0})
    experiment = load_params(tmp_path / "params.yaml").experiment("mini")
    with pytest.raises(
        Diverged, match=r"^train: diverged, the loss is (nan|inf) at step 10; lower train.learning_rate"
    ):
        train_rpg(experiment, finished / "results/mini/tokens", tmp_path / "rpg", tmp_path / "seconds.json")
    assert not (tmp_path / "rpg/model.safetensors").exists()


@pytest.mark.parametrize(
    ("factor", "at", "found"),
    [
        # The loss of step 20 is that of the weights before it, which are still numbers.
        (math.nan, 20, "weights are NaN or Inf at step 20"),
        (math.inf, 15, "the loss is nan at step 20"),
        # Still a number, but of no use.
        (1e6, 15, r"the loss is \d\.\d+e\+\d\d at step 20"),
    ],
)
def test_last_good_state_is_kept(
    factor: float, at: int, found: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step = Training.one_step

    def spoilt(training: Training) -> torch.Tensor:
        loss = one_step(training)
        if training.step == at:
            with torch.no_grad():
                next(p for p in reversed(list(training.model.parameters())) if p.dim() > 1).mul_(factor)
        return loss

    monkeypatch.setattr(Training, "one_step", spoilt)
    with pytest.raises(Diverged) as error:
        train(finished, tmp_path / "rpg")
    state = tmp_path / "rpg/state/state.safetensors"
    assert re.search(
        rf"^train: diverged, {found}, after a loss of 1\.\d+ at step 10; the state before it is in {state};",
        str(error.value),
    )
    kept = load_file(state)
    assert json.loads(bytes(kept.pop("facts").tolist()))["step"] == 10
    assert all(tensor.isfinite().all() for tensor in kept.values())
