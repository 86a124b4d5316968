"""The rivals of a network of an architecture that the joint RPG was not trained on.

Random weights, the networks of trained architectures cut or padded to its shapes, and a training from scratch.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.tasks.base import Task
from rpg.tasks.config import Run
from rpg.tasks.stack import StateDict
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.utils.rng import derive

# The steps of the training that is timed to choose the number of steps for some seconds.
TIMED = 20


def random_networks(task: Task, seeds: Sequence[int]) -> list[StateDict]:
    """Return the state dicts of new networks, with random weights of each seed."""
    networks = []
    for seed in seeds:
        torch.manual_seed(derive("joint", "random", seed))
        networks.append(dict(task.build().state_dict()))
    return networks


def resized(state_dict: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> StateDict:
    """Return the weights cut to the shapes of the tensors `shapes`, or padded with zeros, tensor by tensor."""
    made = {}
    for name, like in shapes.items():
        tensor = state_dict[name]
        made[name] = torch.zeros(like.shape, dtype=tensor.dtype)
        corner = tuple(slice(min(pair)) for pair in zip(tensor.shape, like.shape, strict=True))
        made[name][corner] = tensor[corner]
    return made


def last_checkpoints(store: TokenStore, zoo: Path) -> Iterator[StateDict]:
    """Yield the last checkpoint of each run of a zoo."""
    last = {checkpoint.seed: checkpoint for checkpoint in store.checkpoints}
    names = [tensor.name for tensor in store.layout.tensors]
    for checkpoint in last.values():
        yield read_checkpoint(zoo / checkpoint.file, names)


def trained_from_scratch(task: Task, experiment: Experiment, seconds: float, seed: int) -> tuple[StateDict, int, float]:
    """Return a network that the zoo's recipe trains for about `seconds`, its steps and its seconds."""
    run = next(iter(experiment.runs().values())).model_copy(update={"seed": seed})
    _, spent = _trained(task, experiment, run, TIMED)
    steps = max(1, round(TIMED * seconds / spent))
    state_dict, spent = _trained(task, experiment, run, steps)
    return state_dict, steps, spent


def _trained(task: Task, experiment: Experiment, run: Run, steps: int) -> tuple[StateDict, float]:
    saved: list[StateDict] = []
    zoo = experiment.zoo.model_copy(update={"steps": max(1, steps - 1), "saves": 1, "save_every": 1})
    started = time.perf_counter()
    task.train(zoo, [run], [None], lambda step, state_dicts: saved.extend(state_dicts))
    return saved[-1], time.perf_counter() - started
