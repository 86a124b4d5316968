"""Several networks of one architecture, computed at once: every tensor of their state dicts as [E, ...].

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
    """One dict of tensors [E, ...] from E state dicts of one architecture."""
    return {name: torch.stack([state_dict[name] for state_dict in state_dicts]) for name in state_dicts[0]}


def unstack(weights: Mapping[str, Tensor]) -> list[StateDict]:
    """The E state dicts, on the CPU, as copies of their own."""
    count = len(next(iter(weights.values())))
    return [{name: tensor[e].detach().cpu().clone() for name, tensor in weights.items()} for e in range(count)]


def mismatch(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """The first reason why `state_dict` is not one of a network whose own is `own`; None if it is."""
    for name, tensor in own.items():
        if name not in state_dict:
            return f"tensor '{name}' is missing"
        if state_dict[name].shape != tensor.shape:
            return f"tensor '{name}' has shape {list(state_dict[name].shape)}, not {list(tensor.shape)}"
    unknown = next((name for name in state_dict if name not in own), None)
    return f"tensor '{unknown}' belongs to no module of the network" if unknown else None


def logits(network: nn.Module, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """[E, n, K]: what `network` answers with each of the weights [E, ...].

    All to the same `images` [n, C, H, W], or each to its own, [E, n, C, H, W]. Differentiable. BatchNorm in training
    mode updates its statistics in `weights` in place, as it would in a network.
    """
    count, each = len(next(iter(weights.values()))), images.ndim == 5
    if count == 1:
        # By itself a network is faster as it is; on a CPU BatchNorm and pooling are, in this memory format, which the
        # convolutions hand on.
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

    # The fused attention kernels have no batching rule: vmap would compute network after network.
    with sdpa_kernel(SDPBackend.MATH):
        return torch.vmap(one, in_dims=(0, 0 if each else None), randomness="different")(dict(weights), images)


class Joint(nn.Module):
    """E convolutional networks as one, whose E·C channels lie side by side; convolutions have a group for each network.

    About twice as fast as vmap, which copies between most operations. Where something mixes channels that has no
    counterpart here, or takes tokens in place of channels, `agrees` is false.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        # timm's networks are all that is stacked, and it takes a while to import.
        from timm.layers import LayerNorm2d

        super().__init__()
        self.count = count
        self.network = copy.deepcopy(network)
        for name, module in list(self.network.named_modules()):
            if isinstance(module, nn.Conv2d):
                module.groups *= count
            elif type(module) is nn.Linear:
                self.network.set_submodule(name, _Linear(module, count))
            elif type(module) is LayerNorm2d:
                self.network.set_submodule(name, _LayerNorm2d(module, count))

    def forward(self, weights: Mapping[str, Tensor], images: Tensor, training: bool) -> Tensor:
        """As `logits`."""
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
        """Whether networks with random weights answer as each does alone, to `images` [E, n, C, H, W]."""
        draw = torch.Generator().manual_seed(0)
        weights = {}
        for name, tensor in network.state_dict().items():
            random = torch.rand(self.count, *tensor.shape, generator=draw, dtype=torch.float64).to(tensor.device)
            # What is normalised by must be positive; other weights sum up to about 1.
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
            # Any network of timm's may come here, and each fails in its own way.
            return False
        return joint_EnK.shape == alone_EnK.shape and torch.allclose(joint_EnK, alone_EnK, rtol=1e-6)


class _Linear(nn.Linear):
    """[n, E·in] → [n, E·out], each network's own."""

    def __init__(self, module: nn.Linear, count: int) -> None:
        super().__init__(module.in_features, module.out_features, module.bias is not None, device="meta")
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        x_EnI = x.unflatten(1, (self.count, self.in_features)).transpose(0, 1)
        y_EnO = x_EnI @ self.weight.unflatten(0, (self.count, -1)).transpose(1, 2)
        y = y_EnO.transpose(0, 1).flatten(1)
        return y if self.bias is None else y + self.bias


class _LayerNorm2d(nn.Module):
    """timm's LayerNorm2d, [n, E·C, H, W], over the channels of each network."""

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
    """`count` networks as one, if that can be had; made and tried when first asked for."""
    known = _JOINTS.setdefault(network, {})
    if count not in known:
        joint, was = Joint(network, count), network.training
        tried = torch.rand(count, 2, *images.shape[-3:], generator=torch.Generator().manual_seed(0))
        known[count] = joint if joint.agrees(network.eval(), tried.to(images.device)) else None
        network.train(was)
    return known[count]
