"""Refine a generated network through its generator: gradient descent on a prompt's embedding and the noise.

The weights stay where the generator can reach, so a few images move them less freely than fine-tuning does.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from rpg.model.diffusion import T
from rpg.model.rpg import RPG
from rpg.tasks.base import DifferentiableTask
from rpg.tasks.stack import StateDict, logits, unstack
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import Values


@contextmanager
def _shifted(model: RPG, shift: Tensor) -> Iterator[None]:
    """Add `shift` [B, 1, M] to the conditions' embedding."""
    hook = model.recurrent.conditions.register_forward_hook(lambda _, __, embedded: embedded + shift)
    try:
        yield
    finally:
        hook.remove()


def refined(
    model: RPG,
    store: TokenStore,
    task: DifferentiableTask,
    values: Values,
    inputs: Tensor,
    answers_En: Tensor,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
) -> list[StateDict]:
    """Return networks for E prompts after `steps` steps of Adam on their support sets.

    `inputs` [E, n, C, H, W] and `answers_En` are the support sets. The generator makes each network in one step from
    noise. The gradient changes the noise [E, L, D] and a shift [E, 1, M] of the embedding, no weight of the generator.
    """
    count = len(answers_En)
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, model.length, model.width, generator=draw).requires_grad_()
    t = torch.full((count,), T - 1)
    with torch.no_grad():
        width = model.recurrent.conditions(values).shape[-1]
        starts = model.starts(values)
    shift = torch.zeros(count, 1, width, requires_grad=True)
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    learned = {name for name, _ in task.network.named_parameters()}
    states = torch.zeros(count, dtype=torch.int64)
    optimizer = torch.optim.Adam([noise, shift], learning_rate)
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for step in range(steps + 1):
            with _shifted(model, shift):
                tokens_ELD = model.denoise(noise, t, model.recurrent(values), starts)
            weights = store.detokenize(tokens_ELD, states)
            if step == steps:
                break
            # BatchNorm's running statistics get no gradient.
            own = {name: tensor if name in learned else tensor.detach() for name, tensor in weights.items()}
            outputs_EnK = logits(task.network, own, inputs)
            loss = functional.cross_entropy(outputs_EnK.transpose(1, 2), answers_En, reduction="none").mean(1)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return unstack({name: tensor.detach() for name, tensor in weights.items()})
