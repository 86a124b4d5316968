"""Trainings of the miniature."""

from pathlib import Path

import torch

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import build
from rpg.training.train import train_loss, train_rpg
from rpg.training.trainer import Training

ARTIFACTS = ("model.safetensors", "config.json", "log.csv")


def artifacts(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ARTIFACTS}


def train(finished: Path, folder: Path) -> dict[str, bytes]:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    train_rpg(experiment, finished / "results/mini/tokens", folder, folder.parent / "seconds.json")
    return artifacts(folder)


def new_training(experiment: Experiment, store: TokenStore) -> Training:
    on = torch.device("cpu")
    model = build(experiment.model, experiment.diffusion, store)
    loss = train_loss(store, experiment.train, experiment.model.conditions, on)
    return Training(experiment.train, model, loss, "train", on)


def after(training: Training, steps: int) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        training.one_step()
    return {**training.averaged(), **{f"now.{name}": tensor for name, tensor in training.model.state_dict().items()}}
