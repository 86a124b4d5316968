"""Take the published RPG's weights in place of training it: `rpg import --experiment NAME --weights FILE`.

Writes what `rpg train` writes: rpg/model.safetensors, rpg/config.json and rpg/log.csv, which has no rows. The zoo has
to be the published one: tokens depend on its statistics, and each permutation state is one of its checkpoints.
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.model.published_names import GATE, from_published, name_here
from rpg.model.rpg import RPG
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import build, write_model
from rpg.training.trainer import LOG_HEADER
from rpg.utils.errors import UserError
from rpg.utils.files import exclusive, read_tensors, write_sealed

_STATES = "recurrent.conditions.kinds.permutation_state.embedding.weight"
_CODE = "recurrent.conditions.kinds.task_code.layers"


def import_weights(experiment: Experiment, weights: Path, tokens: Path, folder: Path, seconds: Path) -> None:
    """Write the published state dict in `weights` into `folder`, as if it had been trained on the store `tokens`.

    Raises UserError that names the first tensor which does not fit the experiment's model.
    """
    for part, kind in (("backbone", "paper"), ("denoiser", "convolution")):
        if getattr(experiment.model, part).kind != kind:
            raise UserError(f"params.yaml: model.{part}.kind: must be {kind}, as the published weights have it")
    if experiment.diffusion.target != "epsilon":
        raise UserError("params.yaml: diffusion.target: must be epsilon, what the published weights predict")
    published = read_tensors(weights)
    store = TokenStore(tokens)
    model = build(experiment.model, experiment.diffusion, store)
    try:
        load_published(model, published)
    except ValueError as error:
        raise UserError(f"{weights}: {error}") from error
    with exclusive(folder):
        (folder / "config.json").unlink(missing_ok=True)
        # What a killed training would go on from.
        shutil.rmtree(folder / "state", ignore_errors=True)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        write_model(folder, model.state_dict(), parameters, LOG_HEADER, experiment.model, experiment.diffusion, store)
        write_sealed(seconds, {"seconds": 0.0, "steps": 0})


def load_published(model: RPG, published: dict[str, Tensor]) -> None:
    """Give the published weights to a `model` of their architecture; ValueError names the first that does not fit."""
    state, own = from_published(published), model.state_dict()
    names = {name_here(name): name for name in published}
    code = state.get(f"{_CODE}.weight")
    if code is not None and code.shape[-1] == 1 and f"{_CODE}.weight" not in own and _STATES in state:
        # Published without task codes, the condition is a single number that is always 0: its bias reaches every token,
        # whatever the state is.
        state[_STATES] = state[_STATES] + state.pop(f"{_CODE}.bias")
        del state[f"{_CODE}.weight"]
    states = [len(weights[_STATES]) if _STATES in weights else 0 for weights in (state, own)]
    if all(states) and states[0] != states[1]:
        raise ValueError(
            f"has {states[0]} permutation states, one for each checkpoint that it learned from, and the zoo has"
            f" {states[1]}, one for each run; name the published checkpoints one by one in zoo.runs"
        )
    for name, tensor in own.items():
        if name not in state:
            raise ValueError(f"nothing in it is '{name}' {list(tensor.shape)} of the experiment's model")
        if state[name].shape != tensor.shape:
            shapes = f"{list(state[name].shape)}, in the experiment's model {list(tensor.shape)}"
            raise ValueError(f"tensor '{names[name]}' has shape {shapes}")
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"tensor '{names[name]}' holds NaN or Inf")
    if unknown := [names[name] for name in state if name not in own]:
        raise ValueError(f"tensor '{unknown[0]}' has no place in the experiment's model; see model.conditions")
    _check_gate(model, published.get(GATE))
    model.load_state_dict(state)


def _check_gate(model: RPG, gate_1L1: Tensor | None) -> None:
    """ValueError unless the task code reaches the same tokens in `model` as published, which are all without a gate."""
    conditions = model.recurrent.conditions
    if "task_code" not in conditions.kinds:
        return
    ones_L = torch.ones(model.length, dtype=torch.bool)
    here_L = conditions.head.flatten() if "task_code" in conditions.of_head else ones_L
    told_L = ones_L if gate_1L1 is None else gate_1L1.flatten().bool()
    if not torch.equal(here_L, told_L):
        raise ValueError(
            f"the task code reaches {int(told_L.sum())} of its {len(told_L)} tokens, those at the end, and"
            f" {int(here_L.sum())} of {len(here_L)} in the experiment's model: no `reach` is that of these weights"
        )
