"""Several networks of one architecture, computed at once: every tensor of their state dicts as [E, ...].

E networks, n images, K classes.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

StateDict = dict[str, Tensor]


def stack(state_dicts: Sequence[StateDict]) -> StateDict:
    """One dict of tensors [E, ...] from E state dicts of one architecture."""
    return {name: torch.stack([state_dict[name] for state_dict in state_dicts]) for name in state_dicts[0]}


def unstack(weights: Mapping[str, Tensor]) -> list[StateDict]:
    """The E state dicts, on the CPU, as copies of their own."""
    count = len(next(iter(weights.values())))
    return [{name: tensor[e].detach().cpu().clone() for name, tensor in weights.items()} for e in range(count)]


def misfit(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """The first reason why `state_dict` is not one of a network whose own is `own`; None if it is."""
    for name, tensor in own.items():
        if name not in state_dict:
            return f"tensor '{name}' is missing"
        if state_dict[name].shape != tensor.shape:
            return f"tensor '{name}' has shape {list(state_dict[name].shape)}, not {list(tensor.shape)}"
    unknown = next((name for name in state_dict if name not in own), None)
    return f"tensor '{unknown}' is of no module of the network" if unknown else None


def logits(network: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """[E, n, K]: what `network` answers for `images` [n, C, H, W] with each of the weights [E, ...].

    Differentiable. BatchNorm in training mode updates its statistics in `weights` in place, as it would in a network.
    """

    def one(state_dict: StateDict) -> Tensor:
        return functional_call(network, state_dict, (images,))

    if len(next(iter(weights.values()))) == 1:
        # By itself a network is faster without vmap.
        return one({name: tensor[0] for name, tensor in weights.items()}).unsqueeze(0)
    # The fused attention kernels have no batching rule: vmap would compute network after network.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(one, randomness="different")(dict(weights))
