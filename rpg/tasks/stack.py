"""Compute several networks of one architecture at once: every tensor of their state dicts is [E, ...].

E networks, n images, K classes.
"""

import copy
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

StateDict = dict[str, Tensor]


def stack(state_dicts: Sequence[StateDict]) -> StateDict:
    """Stack E state dicts of one architecture into one dict of tensors [E, ...]."""
    return {name: torch.stack([state_dict[name] for state_dict in state_dicts]) for name in state_dicts[0]}


def unstack(weights: Mapping[str, Tensor]) -> list[StateDict]:
    """Return the E state dicts as separate copies, on the CPU."""
    count = len(next(iter(weights.values())))
    return [{name: tensor[e].detach().cpu().clone() for name, tensor in weights.items()} for e in range(count)]


def mismatch(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Return the first reason why `state_dict` does not fit a network with the state dict `own`; None if it fits."""
    for name, tensor in own.items():
        if name not in state_dict:
            return f"tensor '{name}' is missing"
        if state_dict[name].shape != tensor.shape:
            return f"tensor '{name}' has shape {list(state_dict[name].shape)}, not {list(tensor.shape)}"
    unknown = next((name for name in state_dict if name not in own), None)
    return f"tensor '{unknown}' belongs to no module of the network" if unknown else None


def logits(network: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return [E, n, K]: the outputs of `network` with each of the weights [E, ...].

    `images` is [n, C, H, W] for all networks, or [E, n, C, H, W] with separate images for each. The outputs are
    differentiable. BatchNorm in training mode updates its statistics in `weights` in place.
    """
    count, each = len(next(iter(weights.values()))), images.ndim == 5
    if count == 1:
        # A single network is fastest without stacking. On a CPU, BatchNorm and pooling are faster in this memory
        # format, which the convolutions pass on.
        last = torch.contiguous_format if images.is_cuda else torch.channels_last
        alone = {
            name: tensor[0].contiguous(memory_format=last) if tensor.ndim == 5 else tensor[0]
            for name, tensor in weights.items()
        }
        return functional_call(network, alone, (images[0] if each else images,)).unsqueeze(0)
    if joint := _joint(network, count, images):
        return joint(weights, images, network.training)

    def one(state_dict: StateDict, images: Tensor) -> Tensor:
        return functional_call(network, state_dict, (images,))

    # The fused attention kernels have no batching rule, so vmap would compute one network after the other.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(one, in_dims=(0, 0 if each else None), randomness="different")(dict(weights), images)


class Joint(nn.Module):
    """E convolutional networks as one network with E·C channels; each convolution has one group per network.

    This is about twice as fast as vmap, which copies tensors between most operations. `agrees` returns False for
    networks with other modules that mix channels, or with tokens in place of channels.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        # Only timm's networks are stacked, and the import of timm is slow.
        from timm.layers import LayerNorm2d

        super().__init__()
        self.count = count
        self.network = copy.deepcopy(network)
        for name, module in list(self.network.named_modules()):
            if isinstance(module, nn.Conv2d):
                module.groups *= count
            elif isinstance(module, nn.GroupNorm):
                module.num_groups, module.num_channels = module.num_groups * count, module.num_channels * count
            elif type(module) is nn.Linear:
                self.network.set_submodule(name, _Linear(module, count))
            elif type(module) is LayerNorm2d:
                self.network.set_submodule(name, _LayerNorm2d(module, count))

    def forward(self, weights: Mapping[str, Tensor], images: Tensor, training: bool) -> Tensor:
        """Return [E, n, K], as `logits` does."""
        merged = {name: tensor.flatten(0, 1) if tensor.ndim > 1 else tensor for name, tensor in weights.items()}
        if images.ndim == 4:
            images = images.expand(self.count, *images.shape)
        side_by_side = images.transpose(0, 1).flatten(1, 2)
        if not images.is_cuda:
            # BatchNorm and pooling are several times faster in this memory format.
            side_by_side = side_by_side.contiguous(memory_format=torch.channels_last)
        answers = functional_call(self.network.train(training), merged, (side_by_side,))
        return answers.unflatten(1, (self.count, -1)).transpose(0, 1)

    def agrees(self, network: nn.Module, images: Tensor) -> bool:
        """Return whether networks with random weights give the same outputs jointly as alone.

        `images` is [E, n, C, H, W].
        """
        draw = torch.Generator().manual_seed(0)
        weights = {}
        for name, tensor in network.state_dict().items():
            random = torch.rand(self.count, *tensor.shape, generator=draw, dtype=torch.float64).to(tensor.device)
            # Variances must be positive; other weights are scaled so that outputs stay near 1.
            random = random + 0.5 if tensor.ndim < 2 else (random - 0.5) / max(tensor[0].numel(), 1) ** 0.5
            weights[name] = random if tensor.is_floating_point() else tensor.expand(self.count, *tensor.shape).clone()
        images = images.double()
        try:
            with torch.no_grad():
                joint_EnK = self(weights, images, training=False)
                alone_EnK = torch.stack(
                    [
                        functional_call(network, {name: tensor[e] for name, tensor in weights.items()}, (images[e],))
                        for e in range(self.count)
                    ]
                )
        except Exception:
            # Any timm network may arrive here, and each fails with its own exception type.
            return False
        return joint_EnK.shape == alone_EnK.shape and torch.allclose(joint_EnK, alone_EnK, rtol=1e-6)


class _Linear(nn.Linear):
    """[n, E·in] → [n, E·out], with one weight matrix per network."""

    def __init__(self, module: nn.Linear, count: int) -> None:
        super().__init__(module.in_features, module.out_features, module.bias is not None, device="meta")
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        x_EnI = x.unflatten(1, (self.count, self.in_features)).transpose(0, 1)
        y_EnO = x_EnI @ self.weight.unflatten(0, (self.count, -1)).transpose(1, 2)
        y = y_EnO.transpose(0, 1).flatten(1)
        return y if self.bias is None else y + self.bias


class _LayerNorm2d(nn.Module):
    """timm's LayerNorm2d on [n, E·C, H, W], over the channels of each network."""

    def __init__(self, module: nn.LayerNorm, count: int) -> None:
        super().__init__()
        self.count, self.eps = count, module.eps
        self.weight, self.bias = module.weight, module.bias

    def forward(self, x: Tensor) -> Tensor:
        x_nHWEC = x.permute(0, 2, 3, 1).unflatten(3, (self.count, -1))
        normal = functional.layer_norm(x_nHWEC, x_nHWEC.shape[-1:], eps=self.eps).flatten(3)
        return torch.addcmul(self.bias, normal, self.weight).permute(0, 3, 1, 2)


_JOINTS: WeakKeyDictionary[nn.Module, dict[int, Joint | None]] = WeakKeyDictionary()


def _joint(network: nn.Module, count: int, images: Tensor) -> Joint | None:
    """Return `count` networks as one, or None if they do not agree; built and tested at the first call."""
    by_count = _JOINTS.setdefault(network, {})
    if count not in by_count:
        joint, training = Joint(network, count), network.training
        trial_images = torch.rand(count, 2, *images.shape[-3:], generator=torch.Generator().manual_seed(0))
        by_count[count] = joint if joint.agrees(network.eval(), trial_images.to(images.device)) else None
        network.train(training)
    return by_count[count]
