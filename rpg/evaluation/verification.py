"""Test symmetries: a changed network with random weights must keep its outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rpg.evaluation.recording import Forward, tensors_in

# The errors of a walk or a forward pass. A walk may fail on any of a thousand architectures, each with another error.
FAILURES = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError, AttributeError)

Group = TypeVar("Group")


def as_arrays(state_dict: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return copies of the tensors as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state_dict.items()}


def vary(network: nn.Module) -> dict[str, Tensor]:
    """Load random weights into the network and return them, because symmetries must not depend on its own weights."""
    draw = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.ndim:
            return tensor
        # Positive, as variances are. Random, because a new BatchNorm has equal statistics, which hide a permutation.
        numbers = 0.5 + torch.rand(tensor.shape, generator=draw)
        if tensor.ndim > 1:
            numbers = torch.randn(tensor.shape, generator=draw) / math.sqrt(tensor[0].numel())
        return numbers.to(tensor.dtype)

    varied = {name: drawn(tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(varied)
    return varied


def keeping_outputs(
    network: nn.Module,
    inputs: Tensor,
    forward: Forward,
    varied: Mapping[str, Tensor],
    groups: Sequence[Group],
    moved: Callable[[Sequence[Group]], Mapping[str, np.ndarray]],
) -> list[Group]:
    """Return `groups` if the network keeps its outputs with the weights `moved(groups)`, else those that pass alone."""

    @torch.inference_mode()
    def outputs(weights: Mapping[str, Any]) -> list[Tensor]:
        network.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in weights.items()})
        return list(tensors_in(forward(network, inputs)))

    def keep(chosen: Sequence[Group]) -> bool:
        after = outputs(moved(chosen))
        return all(
            torch.allclose(one, other, rtol=1e-3, atol=1e-4 * one.abs().max().item())
            for one, other in zip(before, after, strict=True)
        )

    try:
        before = outputs(varied)
        # Equal outputs for all inputs would prove nothing.
        if not groups or all(torch.allclose(output[:1], output[1:]) for output in before):
            return []
        if keep(groups):
            return list(groups)
        passing = [group for group in groups if keep([group])]
        return passing if passing and keep(passing) else []
    except FAILURES:
        return []
