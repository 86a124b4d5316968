"""Trainings in one process or two: `torchrun --nproc-per-node 2 tests/together.py FOLDER CASE...`.

FOLDER holds params.yaml and tokens of the miniature, and what one process has saved after half of the steps.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.config.model import Model
from rpg.tokenizer.store import TokenStore
from rpg.training.distributed import ALONE, ProcessGroup, joined
from rpg.training.model_file import fresh
from rpg.training.train import train_loss
from rpg.training.trainer import Training
from rpg.utils.rng import fix_arithmetic

STEPS, HALF = 12, 6
PAPER = {
    "backbone": {
        "kind": "paper",
        "width": 32,
        "state_width": 16,
        "head_width": 16,
        "expand": 2,
        "prototype_projection": False,
    },
    "denoiser": {"kind": "convolution", "channels": [1, 8, 16, 8, 1], "kernel": 7},
    "start": "zero",
}
# Name → architecture, and the changes of the miniature's train block.
QUICK = {
    "residual": ("residual", {}),
    "residual-sharded": ("residual", {"sharded": True, "draws": 2}),
    "mean-sharded": ("mean", {"sharded": True, "times": None}),
    "paper": ("paper", {}),
    "paper-sharded": ("paper", {"sharded": True}),
}
# One token: one of the two processes has nothing to denoise.
MORE = {
    "paper-without-average": ("paper", {"sharded": True, "ema": 0.0}),
    "residual-checkpointing": ("residual", {"checkpointing": True}),
    "paper-checkpointing": ("paper", {"checkpointing": True}),
    "paper-sharded-checkpointing": ("paper", {"checkpointing": True, "sharded": True}),
    "residual-one-token": ("residual", {"diffusion_batch": 1}),
    "paper-one-token": ("paper", {"diffusion_batch": 1}),
    "paper-sharded-one-token": ("paper", {"diffusion_batch": 1, "sharded": True}),
    "8-bit": ("residual", {"optimizer": "adamw8bit"}),
    "8-bit-sharded": ("residual", {"optimizer": "adamw8bit", "sharded": True}),
}
CASES = {**QUICK, **MORE}


def changed(experiment: Experiment, model: str = "residual", **train: object) -> Experiment:
    """The experiment with another architecture and other values in its train block."""
    models = {
        "residual": experiment.model,
        "mean": experiment.model.model_copy(update={"start": "mean"}),
        "paper": Model.model_validate({**PAPER, "conditions": experiment.model.conditions}),
    }
    return experiment.model_copy(update={"model": models[model], "train": experiment.train.model_copy(update=train)})


def case(folder: Path, name: str) -> Experiment:
    """The miniature as a case has it."""
    model, changes = CASES[name]
    return changed(load_params(folder / "params.yaml").experiment("mini"), model, **{"steps": STEPS, **changes})


def start(folder: Path, name: str, group: ProcessGroup = ALONE) -> Training:
    experiment, store, on = case(folder, name), TokenStore(folder / "results/mini/tokens"), torch.device("cpu")
    torch.manual_seed(0)
    model = fresh(experiment.model, experiment.diffusion, store)
    loss = train_loss(store, experiment.train, experiment.model.conditions, on, group)
    return Training(experiment.train, model, loss, "train", on, group, experiment.train.sharded)


def steps(training: Training, until: int) -> list[float]:
    """The losses of the steps up to `until`."""
    group = training.group
    return [(group.sum(training.one_step()) / group.processes).item() for _ in range(training.step, until)]


def run(folder: Path, names: Sequence[str], group: ProcessGroup, resumes: str, out: str) -> None:
    """Each case from the start, saved half-way, and from the state `<case>-<resumes>`, into files `<case>-<out>`."""
    for name in names:
        training = start(folder, name, group)
        losses = steps(training, HALF)
        training.save(folder / f"{name}-{out}.safetensors", name)
        losses += steps(training, STEPS)
        weights = training.averaged()
        resumed = start(folder, name, group)
        assert resumed.resume(folder / f"{name}-{resumes}.safetensors", name)
        after = steps(resumed, STEPS)
        if group.first:
            save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / f"{name}-{out}.weights")
            (folder / f"{name}-{out}.json").write_text(json.dumps({"losses": losses, "after": after}))


if __name__ == "__main__":
    fix_arithmetic(1)
    with joined(torch.device("cpu")) as both:
        run(Path(sys.argv[1]), sys.argv[2:], both, "one", "two")
