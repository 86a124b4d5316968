"""Fine-tune networks on the task loss: the fair rival of an RPG that was tuned on this loss."""

from collections.abc import Sequence

import torch

from rpg.config.experiment import FineTune
from rpg.tasks.base import DifferentiableTask
from rpg.tasks.stack import StateDict, stack, unstack
from rpg.utils.device import device
from rpg.utils.rng import generator


def fine_tuned(
    task: DifferentiableTask, state_dicts: Sequence[StateDict], codes: Sequence[str | None], params: FineTune
) -> list[StateDict]:
    """Return the networks after `params.steps` steps of AdamW on training images, all at once.

    The learning rate falls linearly to zero. The networks of a step share its images.
    """
    on = device()
    weights = {name: tensor.to(on) for name, tensor in stack([dict(one) for one in state_dicts]).items()}
    learned = [weights[name].requires_grad_() for name, _ in task.network.named_parameters()]
    optimizer = torch.optim.AdamW(learned, params.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, params.steps)
    draw = generator("fine-tuned", params.steps)
    for _ in range(params.steps):
        optimizer.zero_grad()
        task.losses(weights, codes, params.images, draw).sum().backward()
        optimizer.step()
        schedule.step()
    return unstack(weights)
