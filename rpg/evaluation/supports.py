"""What rivals of RPG make of a support set: the same images, without a generator.

E support sets of n images each, F features of an image, K classes of the base network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rpg.tasks.base import DifferentiableTask
from rpg.tasks.stack import StateDict, logits, stack, unstack
from rpg.utils.device import device


@dataclass(frozen=True)
class Support:
    """A support set: `images` [n, C, H, W] uint8, their `answers` [n], 0 or 1, and their features [n, F]."""

    code: str
    images: Tensor
    answers: Tensor
    features: Tensor

    def sides(self) -> list[Tensor]:
        """Return the features [k, F] of the images of no, and those of yes."""
        return [self.features[self.answers == side] for side in (0, 1)]


def probed(support: Support, features_mF: Tensor) -> Tensor:
    """Return the answers [m] of scikit-learn's logistic regression on the support set's features."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(support.features.numpy(), support.answers.numpy())
    return torch.from_numpy(fitted.predict(features_mF.numpy()))


def nearest_mean(support: Support, features_mF: Tensor) -> Tensor:
    """Return the answers [m] of the nearest class mean (Snell et al. 2017)."""
    means = torch.stack([side.mean(0) for side in support.sides()])
    return torch.cdist(features_mF, means).argmin(1)


def voted(support: Support, probabilities_nK: Tensor, probabilities_mK: Tensor) -> Tensor:
    """Return the answers [m] of the base network's classes, each of which the support set counts as no or yes.

    `probabilities_nK` are those of the support set. A class belongs to the side whose images have more of it.
    """
    shares = [probabilities_nK[support.answers == side].sum(0) for side in (0, 1)]
    return (shares[1] > shares[0]).long()[probabilities_mK.argmax(1)]


def tuned(
    task: DifferentiableTask,
    state_dicts: Sequence[StateDict],
    inputs: Tensor,
    answers_En: Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> list[StateDict]:
    """Return E networks after AdamW on their own support sets, all at once.

    `inputs` [E, n, C, H, W] are the network's. Each step takes `batch` images, epoch after epoch in a new order.
    BatchNorm keeps its statistics, because a support set is too small to count them.
    """
    weights = {name: tensor.to(device()) for name, tensor in stack([dict(one) for one in state_dicts]).items()}
    learned = [weights[name].requires_grad_() for name, _ in task.network.named_parameters()]
    optimizer = torch.optim.AdamW(learned, learning_rate, weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    count = answers_En.shape[1]
    order = torch.cat([torch.randperm(count, generator=draw) for _ in range(math.ceil(steps * batch / count) + 1)])
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        outputs_EnK = logits(task.network, weights, inputs[:, chosen])
        loss = functional.cross_entropy(outputs_EnK.transpose(1, 2), answers_En[:, chosen], reduction="none").mean(1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    return unstack(weights)


def steps_of(epochs: int, count: int, batch: int) -> int:
    """Return the number of steps of so many epochs over `count` images."""
    return epochs * max(1, count // batch)


def best_on(task: DifferentiableTask, stored: Sequence[StateDict], inputs: Tensor, answers: Tensor) -> int:
    """Return the index of the stored network whose loss on a support set's `inputs` [n, C, H, W] is least."""
    losses = []
    with torch.inference_mode():
        for start in range(0, len(stored), 16):
            part = stack([dict(one) for one in stored[start : start + 16]])
            outputs_EnK = logits(task.network, part, inputs)
            targets = answers.expand(len(outputs_EnK), -1)
            losses.append(functional.cross_entropy(outputs_EnK.transpose(1, 2), targets, reduction="none").mean(1))
    return int(torch.cat(losses).argmin())
