"""Permutation symmetries of a source network: permutations of units that keep the network's function.

A *group* is a set of G units (channels, hidden units, attention heads) and all tensor axes over these units. The same
permutation of all these axes leaves the network's function unchanged (Ainsworth et al. 2023, "Git Re-Basin", section
2). `find_groups` follows the network's forward pass to find the groups; `match` aligns one network's units with
another's.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, fx, nn

# Sweeps over all groups; a match rarely needs five.
SWEEPS = 20


@dataclass(frozen=True)
class Axis:
    """An axis of the tensor `name`, viewed as `shape`."""

    name: str
    shape: tuple[int, ...]
    axis: int


@dataclass(eq=False)
class PermutationGroup:
    """G units and the axes over them; `fixed` units are inputs or outputs and must not be permuted."""

    units: int
    axes: list[Axis] = field(default_factory=list)
    fixed: bool = False


class _Tracer(fx.Tracer):
    """Trace into timm's blocks, but keep modules with known channels whole."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        from timm.layers import Attention, LayerScale

        return isinstance(module, (Attention, LayerScale)) or super().is_leaf_module(module, qualified_name)


class _Walk:
    """One pass over the graph of a network that assigns a group to each value with channels."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = dict(network.named_modules())
        self.tensors = network.state_dict()
        self.groups: list[PermutationGroup] = []
        # Node → the group of its channels, the name of a parameter, or None.
        self.values: dict[fx.Node, PermutationGroup | str | None] = {}

    def new(self, units: int) -> PermutationGroup:
        self.groups.append(PermutationGroup(units))
        return self.groups[-1]

    def join(self, one: PermutationGroup, other: PermutationGroup) -> PermutationGroup:
        """Merge two groups, because the network adds their values."""
        if one is other or other not in self.groups:
            return one
        if one.units != other.units:
            one.fixed = other.fixed = True
            return one
        one.axes += other.axes
        one.fixed |= other.fixed
        self.groups.remove(other)
        for node, value in self.values.items():
            if value is other:
                self.values[node] = one
        return one

    def attach(self, group: PermutationGroup | None, name: str, axis: int, shape: Sequence[int] | None = None) -> None:
        tensor = self.tensors.get(name)
        if group is not None and tensor is not None:
            group.axes.append(Axis(name, tuple(shape or tensor.shape), axis))

    def run(self, graph: fx.Graph) -> list[PermutationGroup]:
        """Return the groups of units that may be permuted."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = None
            elif node.op == "get_attr":
                self.values[node] = str(node.target)
            elif node.op == "call_module":
                self.values[node] = self.module(str(node.target), self.of(node.args[0]))
            elif node.op == "output":
                for value in self.inputs(node):
                    if isinstance(value, PermutationGroup):
                        value.fixed = True
            else:
                self.values[node] = self.function(self.inputs(node))
        return [group for group in self.groups if not group.fixed and group.axes and group.units > 1]

    def of(self, argument: Any) -> PermutationGroup | None:
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        return value if isinstance(value, PermutationGroup) else None

    def inputs(self, node: fx.Node) -> list[PermutationGroup | str | None]:
        return [self.values[other] for other in node.all_input_nodes]

    def function(self, values: list[PermutationGroup | str | None]) -> PermutationGroup | str | None:
        """Return the group of a function's result.

        The function acts on each unit alone or adds values. A parameter in a sum has the same units as the sum.
        """
        groups = [value for value in values if isinstance(value, PermutationGroup)]
        if not groups:
            return next((value for value in values if isinstance(value, str)), None)
        group = groups[0]
        for other in groups[1:]:
            group = self.join(group, other)
        for name in (value for value in values if isinstance(value, str)):
            shape = tuple(self.tensors[name].shape) if name in self.tensors else ()
            axes = [axis for axis, length in enumerate(shape) if length == group.units]
            if axes:
                self.attach(group, name, axes[-1])
        return group

    def module(self, name: str, group: PermutationGroup | None) -> PermutationGroup | None:
        # The import takes a second, and a caller that only matches units does not need it.
        from timm.layers import Attention, GroupNorm

        module = self.modules[name]
        if isinstance(module, nn.Conv2d):
            return self.convolution(name, module, group)
        if isinstance(module, nn.Linear):
            return self.linear(name, module.in_features, module.out_features, group)
        if isinstance(module, Attention):
            return self.attention(name, module, group)
        if isinstance(module, (nn.GroupNorm, GroupNorm)) and module.num_groups > 1 and group:
            group.fixed = True
        # Norms and scales hold one number per unit; modules without parameters act on each unit alone.
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if group and tensor.ndim == 1 and len(tensor) == group.units:
                self.attach(group, f"{name}.{key}", 0)
            elif group and tensor.ndim:
                group.fixed = True
        return group

    def convolution(self, name: str, module: nn.Conv2d, group: PermutationGroup | None) -> PermutationGroup:
        if module.groups > 1:
            if group is None or not module.groups == module.in_channels == module.out_channels:
                fixed = self.new(module.out_channels)
                fixed.fixed = True
                if group:
                    group.fixed = True
                return fixed
            out = group
        else:
            self.attach(group, f"{name}.weight", 1)
            out = self.new(module.out_channels)
        self.attach(out, f"{name}.weight", 0)
        self.attach(out, f"{name}.bias", 0)
        return out

    def linear(self, name: str, inputs: int, outputs: int, group: PermutationGroup | None) -> PermutationGroup:
        if group and inputs % group.units:
            group.fixed = True
        elif group:
            # After a flattened feature map each channel has several inputs.
            self.attach(group, f"{name}.weight", 1, (outputs, group.units, inputs // group.units))
        out = self.new(outputs)
        self.attach(out, f"{name}.weight", 0)
        self.attach(out, f"{name}.bias", 0)
        return out

    def attention(self, name: str, module: Any, group: PermutationGroup | None) -> PermutationGroup:
        heads, width = module.num_heads, module.head_dim
        inputs, outputs = module.qkv.in_features, module.proj.out_features
        self.attach(group, f"{name}.qkv.weight", 1)
        own = self.new(heads)
        self.attach(own, f"{name}.qkv.weight", 1, (3, heads, width, inputs))
        self.attach(own, f"{name}.qkv.bias", 1, (3, heads, width))
        self.attach(own, f"{name}.proj.weight", 1, (outputs, heads, width))
        out = self.new(outputs)
        self.attach(out, f"{name}.proj.weight", 0)
        self.attach(out, f"{name}.proj.bias", 0)
        return out


def find_groups(network: nn.Module, inputs: Tensor) -> list[PermutationGroup]:
    """Return the permutation groups of `network` in evaluation mode, or none if the walk or the test fails.

    The test: random permutations of all groups must keep the network's outputs for `inputs` [n, ...].
    """
    network, inputs = copy.deepcopy(network).cpu(), inputs.cpu()
    try:
        groups = _Walk(network).run(_Tracer().trace(network))
        return groups if groups and _keep_outputs(network, inputs, groups) else []
    except (fx.proxy.TraceError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, AttributeError):
        # The walk may fail on any of a thousand architectures, each with another error.
        return []


def _keep_outputs(network: nn.Module, inputs: Tensor, groups: list[PermutationGroup]) -> bool:
    """Return whether random permutations of all groups keep the outputs of a network with random weights."""
    draw = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.ndim:
            return tensor
        # Positive, as variances are. Random, because a new BatchNorm has equal statistics, which hide a permutation.
        numbers = 0.5 + torch.rand(tensor.shape, generator=draw)
        if tensor.ndim > 1:
            numbers = torch.randn(tensor.shape, generator=draw) / math.sqrt(tensor[0].numel())
        return numbers.to(tensor.dtype)

    # Random weights, because the groups must not depend on the network's own weights.
    varied = {name: drawn(tensor) for name, tensor in network.state_dict().items()}
    orders = [torch.randperm(group.units, generator=draw).numpy() for group in groups]
    moved = {name: torch.from_numpy(array) for name, array in permute(as_arrays(varied), groups, orders).items()}
    with torch.inference_mode():
        before, after = (torch.func.functional_call(network, weights, (inputs,)) for weights in (varied, moved))
    tolerance = 1e-4 * before.abs().max().item()
    # Equal outputs for all inputs would prove nothing.
    return torch.allclose(before, after, rtol=1e-3, atol=tolerance) and not torch.allclose(before[:1], before[1:])


Arrays = Mapping[str, np.ndarray]


def as_arrays(state_dict: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return copies of the tensors as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state_dict.items()}


def permute(tensors: Arrays, groups: Sequence[PermutationGroup], orders: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return `tensors` with the units of each group in a new order: the new unit k is the old unit `order[k]`."""
    moved = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        _move(moved, group, order)
    return moved


def _move(tensors: dict[str, np.ndarray], group: PermutationGroup, order: np.ndarray) -> None:
    for axis in group.axes:
        if axis.name in tensors:
            tensor = tensors[axis.name]
            tensors[axis.name] = tensor.reshape(axis.shape).take(order, axis.axis).reshape(tensor.shape)


def _units(tensors: Arrays, axis: Axis) -> np.ndarray:
    """Return the tensor as rows [G, n], one per unit."""
    # swapaxes, because np.moveaxis takes longer than all other code here; only the order inside the rows differs.
    return tensors[axis.name].reshape(axis.shape).swapaxes(0, axis.axis).reshape(axis.shape[axis.axis], -1)


def match(tensors: Arrays, target: Arrays, groups: Sequence[PermutationGroup]) -> list[np.ndarray]:
    """Return one order per group so that `permute` brings `tensors` near to `target`.

    Coordinate descent over the groups solves each group exactly as a linear assignment (Ainsworth et al. 2023,
    algorithm 1). The result is the better of two starts: the given order, and a match by features that do not depend on
    the order of other units.
    """
    rows = [[(axis, _units(target, axis)) for axis in group.axes if axis.name in target] for group in groups]
    names = [{axis.name for axis in group.axes} for group in groups]
    neighbors = [{k for k, other in enumerate(names) if k != index and other & own} for index, own in enumerate(names)]
    best: tuple[float, list[np.ndarray]] | None = None
    for start in ([np.arange(group.units) for group in groups], _sorted_start(tensors, rows)):
        orders, moved = list(start), permute(tensors, groups, start)
        # The groups whose best order may have changed because another group on the same tensors has moved.
        open_groups = set(range(len(groups)))
        for _ in range(SWEEPS):
            for index, (group, target_rows) in enumerate(zip(groups, rows, strict=True)):
                if index not in open_groups:
                    continue
                open_groups.remove(index)
                gain = sum(units @ _units(moved, axis).T for axis, units in target_rows)
                order = linear_sum_assignment(gain, maximize=True)[1]
                if np.trace(gain[:, order]) > np.trace(gain) + 1e-6 * abs(np.trace(gain)):
                    _move(moved, group, order)
                    orders[index] = orders[index][order]
                    open_groups |= neighbors[index]
            if not open_groups:
                break
        reached = distance(moved, target)
        if best is None or reached < best[0]:
            best = reached, orders
    assert best
    return best[1]


def _sorted_start(tensors: Arrays, rows: list[list[tuple[Axis, np.ndarray]]]) -> list[np.ndarray]:
    """Match units by their sorted weights, which do not depend on the order of other units."""
    orders = []
    for target_rows in rows:
        gain = sum(np.sort(units, axis=1) @ np.sort(_units(tensors, axis), axis=1).T for axis, units in target_rows)
        orders.append(linear_sum_assignment(gain, maximize=True)[1])
    return orders


def distance(one: Arrays, other: Arrays) -> float:
    """Return the root mean square difference over all numbers of two sets of tensors."""
    squares = sum(float(np.square(one[name] - other[name], dtype=np.float64).sum()) for name in one)
    return math.sqrt(squares / sum(array.size for array in one.values()))
