"""Import the published RPG's weights instead of training: `rpg import --experiment NAME --weights FILE`.

Writes the files of `rpg train`: rpg/model.safetensors, rpg/config.json and rpg/log.csv, which has no rows. The
experiment must have the published zoo: the tokens depend on the zoo's statistics, and each permutation state is one of
the zoo's checkpoints.
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
    """Write the published state dict in `weights` into `folder`, like a model trained on the store `tokens`.

    Raises UserError if the experiment's model is not the published one; the error names the first unfitting tensor.
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
        # The state of a killed training would no longer fit.
        shutil.rmtree(folder / "state", ignore_errors=True)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        write_model(folder, model.state_dict(), parameters, LOG_HEADER, experiment.model, experiment.diffusion, store)
        write_sealed(seconds, {"seconds": 0.0, "steps": 0})


def load_published(model: RPG, published: dict[str, Tensor]) -> None:
    """Load the published weights into a `model` of their architecture; ValueError names the first unfitting tensor."""
    state, own = from_published(published), model.state_dict()
    names = {name_here(name): name for name in published}
    code = state.get(f"{_CODE}.weight")
    if code is not None and code.shape[-1] == 1 and f"{_CODE}.weight" not in own and _STATES in state:
        # Models published without task codes have a condition that is always the number 0. Its bias reaches every token
        # in every state, so the states' embeddings take the bias.
        state[_STATES] = state[_STATES] + state.pop(f"{_CODE}.bias")
        del state[f"{_CODE}.weight"]
    if GATE in published and _STATES not in own:
        # The published training for unseen tasks gives its model no state, so these rows were never used.
        state.pop(_STATES, None)
    states = [len(weights[_STATES]) if _STATES in weights else 0 for weights in (state, own)]
    if all(states) and states[0] != states[1]:
        raise ValueError(
            f"has {states[0]} permutation states, one for each checkpoint that it learned from, and the zoo has"
            f" {states[1]}, one for each run; name the published checkpoints one by one in zoo.runs"
        )
    for name, tensor in own.items():
        if name not in state:
            raise ValueError(f"has no tensor for '{name}' {list(tensor.shape)} of the experiment's model")
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
    """Raise ValueError unless the task code reaches the same tokens in `model` as published: all without a gate."""
    conditions = model.recurrent.conditions
    if "task_code" not in conditions.names:
        return
    ones_L = torch.ones(model.length, dtype=torch.bool)
    reached_L1 = conditions.tokens("task_code")
    here_L = ones_L if reached_L1 is None else reached_L1.flatten()
    published_L = ones_L if gate_1L1 is None else gate_1L1.flatten().bool()
    if not torch.equal(here_L, published_L):
        raise ValueError(
            f"the task code reaches {int(published_L.sum())} of its {len(published_L)} tokens, those at the end, and"
            f" {int(here_L.sum())} of {len(here_L)} in the experiment's model: no `reach` fits these weights"
        )
