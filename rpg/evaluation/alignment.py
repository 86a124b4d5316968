"""Permutation symmetries of a source network: permutations of units that keep the network's function.

A *group* is a set of G units (channels, hidden units, attention heads) and all tensor axes over these units. The same
permutation of all these axes leaves the network's function unchanged (Ainsworth et al. 2023, "Git Re-Basin", section
2). `find_groups` follows a recorded forward pass to find the groups; `match` aligns one network's units with
another's.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from rpg.evaluation.recording import Call, Forward, Record, call_network, parameter_names, record, tensors_in
from rpg.evaluation.verification import FAILURES, as_arrays, keeping_outputs, vary

# Sweeps over all groups; a match rarely needs five.
SWEEPS = 20
# The distance of a match that needs no second start, as a share of the target's root mean square.
NEAR = 0.25
# Functions of several units at once, whose units no permutation may move.
MIXING = {
    "matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention", "multi_head_attention_forward", "tensordot",
    "cumsum", "local_response_norm", "pixel_shuffle", "pixel_unshuffle", "instance_norm", "rms_norm", "roll",
}  # fmt: skip
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@dataclass(frozen=True)
class Axis:
    """An axis of the tensor `name`, viewed as `shape`; the units are those from `start` on."""

    name: str
    shape: tuple[int, ...]
    axis: int
    start: int = 0


@dataclass(eq=False)
class PermutationGroup:
    """G units and the axes over them; `fixed` units are inputs or outputs and must not be permuted.

    GroupNorm divides units into `parts`, which may change places as a whole, and so may the units of one part. Such
    units become a group of parts and, right behind it in the list of groups, `inner` groups, one for each part's units.
    """

    units: int
    axes: list[Axis] = field(default_factory=list)
    fixed: bool = False
    parts: int = 1
    inner: int = 0

    def split(self) -> "list[PermutationGroup]":
        """Return the group of parts and the groups of each part's units; the group itself if there is one part."""
        size = self.units // self.parts
        if self.parts == 1:
            return [self]
        if any(axis.start % size or axis.shape[axis.axis] % size for axis in self.axes):
            return []

        def block(axis: Axis) -> Axis:
            before, length, after = axis.shape[: axis.axis], axis.shape[axis.axis], axis.shape[axis.axis + 1 :]
            return Axis(axis.name, (*before, length // size, size, *after), axis.axis, axis.start // size)

        inner = [
            PermutationGroup(size, [replace(axis, start=axis.start + part * size) for axis in self.axes])
            for part in range(self.parts if size > 1 else 0)
        ]
        return [PermutationGroup(self.parts, [block(axis) for axis in self.axes], inner=len(inner)), *inner]


# The units of a value: groups one after the other (after a concatenation), or the name of a parameter.
Units = tuple[PermutationGroup, ...] | str | None


class _PermutationWalk:
    """One pass over the calls of a network that assigns groups to each value with channels."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names = parameter_names(network)
        self.tensors = network.state_dict()
        self.groups: list[PermutationGroup] = []
        # A joined group → the group that it is part of.
        self.joined: dict[PermutationGroup, PermutationGroup] = {}
        # An axis → its group, because a module may be called several times.
        self.owners: dict[Axis, PermutationGroup] = {}
        # The id of a tensor → its units.
        self.values: dict[int, Units] = {}

    def new(self, units: int) -> PermutationGroup:
        self.groups.append(PermutationGroup(units))
        return self.groups[-1]

    def found(self, group: PermutationGroup) -> PermutationGroup:
        """Return the group that `group` has become a part of."""
        while group in self.joined:
            group = self.joined[group]
        return group

    def join(self, one: PermutationGroup, other: PermutationGroup) -> None:
        """Merge two groups, because the network adds their values."""
        one, other = self.found(one), self.found(other)
        if one is other:
            return
        if one.units != other.units:
            one.fixed = other.fixed = True
            return
        one.axes += other.axes
        one.fixed |= other.fixed or (1 not in (one.parts, other.parts) and one.parts != other.parts)
        one.parts = max(one.parts, other.parts)
        self.joined[other] = one

    def attach(
        self, group: PermutationGroup, name: str, axis: int, shape: Sequence[int] | None = None, start: int = 0
    ) -> None:
        if name in self.tensors:
            place = Axis(name, tuple(shape or self.tensors[name].shape), axis, start)
            if place in self.owners:
                self.join(self.owners[place], group)
            else:
                self.owners[place] = group
                self.found(group).axes.append(place)

    def fix(self, units: Units) -> None:
        for group in units if isinstance(units, tuple) else ():
            self.found(group).fixed = True

    def run(self, record: Record) -> list[PermutationGroup]:
        """Return the groups of units that may be permuted."""
        for call in record.calls:
            units = self.call(call)
            for tensor in call.outputs:
                self.values[id(tensor)] = units
        for tensor in tensors_in(record.output):
            self.fix(self.of(tensor))
        groups = [group for group in self.groups if group not in self.joined]
        return [group for group in groups if not group.fixed and group.axes and group.units > 1]

    def of(self, tensor: Any) -> Units:
        return self.names.get(id(tensor)) or self.values.get(id(tensor))

    def groups_of(self, tensor: Any) -> tuple[PermutationGroup, ...]:
        units = self.of(tensor)
        return tuple(self.found(group) for group in units) if isinstance(units, tuple) else ()

    def name_of(self, tensor: Any) -> str:
        name = self.of(tensor)
        return name if isinstance(name, str) else ""

    def call(self, call: Call) -> Units:
        if call.function == "attention":
            return self.attention(call.module, self.groups_of(call.args[0]))
        if call.function in CONVOLUTIONS:
            return self.convolution(call)
        if call.function == "linear":
            return self.linear(call)
        if call.function == "cat" and (units := self.concatenation(call)):
            return units
        if call.function.startswith("new_") or call.function.endswith("_like"):
            # Only shape and type come from the argument.
            return None
        inputs = call.inputs[:1] if call.function == "type_as" else call.inputs
        groups = [units for units in map(self.of, inputs) if isinstance(units, tuple)]
        if call.function == "group_norm":
            self.divide(groups, call.argument(1, "num_groups"))
        if call.function in MIXING:
            for units in groups:
                self.fix(units)
            return groups[0] if groups else None
        return self.function(call, groups)

    def function(self, call: Call, values: list[tuple[PermutationGroup, ...]]) -> Units:
        """Return the units of a function's result.

        The function acts on each unit alone or adds values. A parameter in a sum has the same units as the sum.
        """
        names = [name for name in map(self.name_of, call.inputs) if name]
        if not values:
            return names[0] if names else None
        first = values[0]
        for units in values[1:]:
            if [group.units for group in units] == [group.units for group in first]:
                for one, other in zip(first, units, strict=True):
                    self.join(one, other)
            else:
                self.fix(first)
                self.fix(units)
        total = sum(group.units for group in first)
        for name in names:
            shape = tuple(self.tensors[name].shape) if name in self.tensors else ()
            axes = [axis for axis, length in enumerate(shape) if length == total]
            if axes:
                self.attach_all(first, name, axes[-1])
            elif math.prod(shape) > 1:
                self.fix(first)
        # A function that takes some of the channels has no dimension for all of them.
        if not any(length % total == 0 for tensor in call.outputs for length in tensor.shape):
            self.fix(first)
            return None
        return first

    def divide(self, values: list[tuple[PermutationGroup, ...]], parts: int) -> None:
        """Divide the units of a value into the parts of a GroupNorm."""
        for units in values:
            group = self.found(units[0])
            if parts > 1 and (len(units) > 1 or group.parts not in (1, parts) or group.units % parts):
                self.fix(units)
            group.parts = max(parts, group.parts)

    def concatenation(self, call: Call) -> Units:
        """Return the units of all tensors, one after the other, or None if the call joins no channels."""
        tensors, axis = list(call.args[0]), call.argument(1, "dim", 0)
        parts = [self.groups_of(tensor) for tensor in tensors]
        lengths = [sum(group.units for group in part) for part in parts]
        if not all(parts) or lengths != [tensor.shape[axis] for tensor in tensors]:
            return None
        return tuple(group for part in parts for group in part)

    def attach_all(
        self, groups: Sequence[PermutationGroup], name: str, axis: int, shape: Sequence[int] | None = None
    ) -> None:
        """Attach an axis to groups that follow each other on it."""
        start = 0
        for group in groups:
            self.attach(group, name, axis, shape, start)
            start += group.units

    def convolution(self, call: Call) -> Units:
        groups, weight = self.groups_of(call.args[0]), call.argument(1, "weight")
        transposed = "transpose" in call.function
        parts = call.argument(6, "groups", 1)
        inputs = call.args[0].shape[1]
        outputs = weight.shape[1] * parts if transposed else weight.shape[0]
        if parts > 1:
            if sum(group.units for group in groups) != inputs or not parts == inputs == outputs:
                self.fix(groups)
                groups = (self.new(outputs),)
                self.fix(groups)
            self.attach_all(groups, self.name_of(weight), 0)
        else:
            if groups and sum(group.units for group in groups) != inputs:
                self.fix(groups)
            else:
                self.attach_all(groups, self.name_of(weight), 0 if transposed else 1)
            groups = (self.new(outputs),)
            self.attach_all(groups, self.name_of(weight), 1 if transposed else 0)
        self.attach_all(groups, self.name_of(call.argument(2, "bias")), 0)
        return groups

    def linear(self, call: Call) -> Units:
        groups, weight = self.groups_of(call.args[0]), call.argument(1, "weight")
        (outputs, inputs), total = weight.shape, sum(group.units for group in groups)
        if groups and inputs % total:
            self.fix(groups)
        elif groups:
            # After a flattened feature map each channel has several inputs.
            self.attach_all(groups, self.name_of(weight), 1, (outputs, total, inputs // total))
        out = self.new(outputs)
        self.attach(out, self.name_of(weight), 0)
        self.attach(out, self.name_of(call.argument(2, "bias")), 0)
        return (out,)

    def attention(self, name: str, groups: tuple[PermutationGroup, ...]) -> Units:
        module: Any = self.network.get_submodule(name)
        heads, width = module.num_heads, module.head_dim
        inputs, outputs = module.qkv.in_features, module.proj.out_features
        self.attach_all(groups, f"{name}.qkv.weight", 1)
        own = self.new(heads)
        self.attach(own, f"{name}.qkv.weight", 1, (3, heads, width, inputs))
        self.attach(own, f"{name}.qkv.bias", 1, (3, heads, width))
        self.attach(own, f"{name}.proj.weight", 1, (outputs, heads, width))
        out = self.new(outputs)
        self.attach(out, f"{name}.proj.weight", 0)
        self.attach(out, f"{name}.proj.bias", 0)
        return (out,)


def find_groups(network: nn.Module, inputs: Tensor, forward: Forward = call_network) -> list[PermutationGroup]:
    """Return the permutation groups of `network` in evaluation mode, or none if the walk or the test fails.

    `forward` runs the network on `inputs` [n, ...]. The test: random permutations of all groups must keep the outputs.
    If they do not, each group is tested alone, and the result has the groups that pass.
    """
    network, inputs = copy.deepcopy(network).cpu(), inputs.cpu()
    try:
        varied = vary(network)
        groups = _PermutationWalk(network).run(record(network, inputs, forward))
    except FAILURES:
        return []
    draw = np.random.default_rng(0)
    parts = {group: group.split() for group in groups}
    orders = {group: [random_cycle(part.units, draw) for part in parts[group]] for group in groups}

    def moved(chosen: Sequence[PermutationGroup]) -> dict[str, np.ndarray]:
        flat = [part for group in chosen for part in parts[group]]
        return permute(as_arrays(varied), flat, [order for group in chosen for order in orders[group]])

    kept = keeping_outputs(network, inputs, forward, varied, groups, moved)
    return [part for group in kept for part in parts[group]]


def random_cycle(units: int, draw: np.random.Generator) -> np.ndarray:
    """Return a random order [G] that leaves no unit in its place."""
    cycle, order = draw.permutation(units), np.empty(units, np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order


Arrays = Mapping[str, np.ndarray]


def permute(tensors: Arrays, groups: Sequence[PermutationGroup], orders: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return `tensors` with the units of each group in a new order: the new unit k is the old unit `order[k]`."""
    moved = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        _move(moved, group, order)
    return moved


def _move(tensors: dict[str, np.ndarray], group: PermutationGroup, order: np.ndarray) -> None:
    for axis in group.axes:
        tensor = tensors.get(axis.name)
        if tensor is None:
            continue
        indices, length = order, axis.shape[axis.axis]
        if len(order) < length:
            indices = np.arange(length)
            indices[axis.start : axis.start + len(order)] = axis.start + order
        if tensor.shape == axis.shape:
            tensors[axis.name] = tensor.take(indices, axis.axis)
        else:
            tensors[axis.name] = tensor.reshape(axis.shape).take(indices, axis.axis).reshape(tensor.shape)


def _units(tensors: Arrays, axis: Axis, units: int) -> np.ndarray:
    """Return the tensor's part with the group's units as rows [G, n], one per unit."""
    # swapaxes, because np.moveaxis takes longer than all other code here; only the order inside the rows differs.
    tensor, length = tensors[axis.name], axis.shape[axis.axis]
    if tensor.shape != axis.shape:
        tensor = tensor.reshape(axis.shape)
    if axis.axis:
        tensor = tensor.swapaxes(0, axis.axis)
    rows = tensor.reshape(length, -1)
    return rows if length == units else rows[axis.start : axis.start + units]


def match(tensors: Arrays, target: Arrays, groups: Sequence[PermutationGroup]) -> list[np.ndarray]:
    """Return one order per group so that `permute` brings `tensors` near to `target`.

    Coordinate descent over the groups solves each group exactly as a linear assignment (Ainsworth et al. 2023,
    algorithm 1). The result is the better of two starts: the given order, and a match by features that do not depend on
    the order of other units.
    """
    rows = [
        [(axis, _units(target, axis, group.units)) for axis in group.axes if axis.name in target] for group in groups
    ]
    names = [{axis.name for axis in group.axes} for group in groups]
    neighbors = [{k for k, other in enumerate(names) if k != index and other & own} for index, own in enumerate(names)]
    best: tuple[float, list[np.ndarray]] | None = None
    size = distance(target, {name: np.zeros(1) for name in target})
    for first in (True, False):
        # Networks this near have no better match: saves of one run, or fine-tuned from one network.
        if best and best[0] < NEAR * size:
            break
        start = [np.arange(group.units) for group in groups] if first else _sorted_start(tensors, groups, rows)
        orders, moved = list(start), permute(tensors, groups, start)
        # The groups whose best order may have changed because another group on the same tensors has moved.
        open_groups = set(range(len(groups)))
        for _ in range(SWEEPS):
            for index, (group, target_rows) in enumerate(zip(groups, rows, strict=True)):
                if index not in open_groups:
                    continue
                open_groups.remove(index)
                gain = sum([units @ _units(moved, axis, group.units).T for axis, units in target_rows])
                order = linear_sum_assignment(gain, maximize=True)[1]
                now = gain.trace()
                if gain[np.arange(group.units), order].sum() > now + 1e-6 * abs(now):
                    _move(moved, group, order)
                    orders[index] = orders[index][order]
                    # The parts take the orders of their own units along.
                    inner = slice(index + 1, index + 1 + group.inner)
                    orders[inner] = [orders[inner][part] for part in order] if group.inner else []
                    open_groups |= neighbors[index]
            if not open_groups:
                break
        reached = distance(moved, target)
        if best is None or reached < best[0]:
            best = reached, orders
    assert best
    return best[1]


def _sorted_start(
    tensors: Arrays, groups: Sequence[PermutationGroup], rows: list[list[tuple[Axis, np.ndarray]]]
) -> list[np.ndarray]:
    """Match units by their sorted weights, which do not depend on the order of other units."""
    orders, moved = [], dict(tensors)
    for group, target_rows in zip(groups, rows, strict=True):
        gain = sum(
            np.sort(units, axis=1) @ np.sort(_units(moved, axis, len(units)), axis=1).T for axis, units in target_rows
        )
        orders.append(linear_sum_assignment(gain, maximize=True)[1])
        if group.inner:
            # The next groups are the units of these parts, in their new places.
            _move(moved, group, orders[-1])
    return orders


def distance(one: Arrays, other: Arrays) -> float:
    """Return the root mean square difference over all numbers of two sets of tensors."""
    squares = sum(float(np.square(one[name] - other[name], dtype=np.float64).sum()) for name in one)
    return math.sqrt(squares / sum(array.size for array in one.values()))
