"""Find the scale groups of a network: one pass over its recorded calls, and a test with random factors."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from rpg.evaluation.alignment import CONVOLUTIONS
from rpg.evaluation.recording import Call, Forward, Record, call_network, parameter_names, record, tensors_in
from rpg.evaluation.scaling import Entry, FoldedNorm, KeyBias, ScaleGroup, Scaling
from rpg.evaluation.verification import FAILURES, as_arrays, keeping_outputs, vary

# Functions f with f(s · x) = s · f(x) for a positive factor s per unit.
HOMOGENEOUS = {
    "relu", "leaky_relu", "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "upsample", "dropout",
    "dropout2d", "reshape", "view", "permute", "transpose", "flatten", "unflatten", "contiguous", "clone", "getitem",
    "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "mean", "sum", "amax", "to", "float", "type_as", "pad",
    "roi_align", "chunk", "split", "unbind", "tensor_split", "narrow", "select", "movedim", "swapaxes", "roll",
    "detach", "get", "neg",
}  # fmt: skip
ADDITIONS = {"add", "iadd", "radd", "sub", "isub", "rsub", "cat", "stack", "setitem", "maximum"}
PRODUCTS = {"mul", "imul", "rmul", "div", "truediv", "itruediv"}
# The value of a new tensor of zeros, which any factor leaves as it is.
ZERO = "zero"


@dataclass(eq=False)
class _Scale:
    """A scale group that the walk is still building; equal `ties` [G] mark units with a common factor."""

    units: int
    ties: np.ndarray
    entries: list[Entry] = field(default_factory=list)
    anchors: list[Entry] = field(default_factory=list)
    fixed: bool = False


# The scales of a value: one after the other (after a concatenation), the name of a parameter, or None without a factor.
Scales = tuple[_Scale, ...] | str | None


def _positions(shape: Sequence[int], axis: int, units: np.ndarray) -> np.ndarray:
    """Return `units` along one axis, to broadcast to `shape`."""
    return units.reshape([-1 if index == axis else 1 for index in range(len(shape))])


class _ScaleWalk:
    """One pass over the calls of a network that assigns scales to each value with channels."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.names = parameter_names(network)
        self.tensors = network.state_dict()
        self.scales: list[_Scale] = []
        self.joined: dict[_Scale, _Scale] = {}
        # Name, exponent, shape and start of an entry → its group, because a module may be called several times.
        self.owners: dict[tuple[str, int, tuple[int, ...], int], _Scale] = {}
        self.values: dict[int, Scales] = {}
        self.norms: dict[str, FoldedNorm] = {}
        self.keys: dict[str, KeyBias] = {}

    def run(self, record: Record) -> Scaling:
        for call in record.calls:
            scales = self.call(call)
            for tensor in call.outputs:
                self.values[id(tensor)] = scales
        for tensor in tensors_in(record.output):
            self.fix(self.of(tensor))
        groups = [self.group(scale) for scale in self.scales if scale not in self.joined and not scale.fixed]
        groups = [group for group in groups if group.anchors]
        return Scaling(tuple(groups), tuple(self.norms.values()), tuple(self.keys.values()))

    def group(self, scale: _Scale) -> ScaleGroup:
        """Return the finished group, with one unit for all that are tied."""
        labels, units = np.unique(scale.ties, return_inverse=True)
        padded = np.append(units, -1)

        def tied(entries: Sequence[Entry]) -> tuple[Entry, ...]:
            return tuple(Entry(entry.name, padded[entry.units], entry.exponent, len(labels)) for entry in entries)

        return ScaleGroup(len(labels), tied(scale.entries), tied(scale.anchors))

    def new(self, units: int) -> _Scale:
        self.scales.append(_Scale(units, np.arange(units)))
        return self.scales[-1]

    def found(self, scale: _Scale) -> _Scale:
        """Return the scale that `scale` has become a part of."""
        while scale in self.joined:
            scale = self.joined[scale]
        return scale

    def join(self, one: _Scale, other: _Scale) -> None:
        """Merge two scales, because the network adds their values; the older one keeps its anchors."""
        one, other = self.found(one), self.found(other)
        if one is other:
            return
        if one.units != other.units:
            one.fixed = other.fixed = True
            return
        if self.scales.index(other) < self.scales.index(one):
            one, other = other, one
        one.entries += other.entries
        one.fixed |= other.fixed
        if not np.array_equal(one.ties, other.ties):
            links = coo_array((np.ones(one.units), (one.ties, other.ties)), (one.units, one.units))
            # The bipartite graph of both ties: its components are the units with a common factor.
            size = one.units
            rows, columns = links.coords
            graph = coo_array((links.data, (rows, columns + size)), (2 * size, 2 * size))
            one.ties = connected_components(graph, directed=False)[1][one.ties]
        self.joined[other] = one

    def fix(self, scales: Scales) -> None:
        for scale in scales if isinstance(scales, tuple) else ():
            self.found(scale).fixed = True

    def tie(self, scales: Sequence[_Scale], parts: int) -> None:
        """Give the units of each of `parts` equal parts a common factor, as a norm over the part needs."""
        if len(scales) == 1:
            scale = self.found(scales[0])
            tied = _Scale(scale.units, np.arange(scale.units) // max(scale.units // parts, 1))
            # An empty scale that only carries the ties.
            self.scales.append(tied)
            self.join(scale, tied)
        else:
            self.fix(tuple(scales))

    def attach(
        self, scale: _Scale, name: str, exponent: int, units: np.ndarray, anchor: bool = False, start: int = 0
    ) -> None:
        if name not in self.tensors:
            return
        key = (name, exponent, units.shape, start)
        if key in self.owners:
            self.join(self.owners[key], scale)
            return
        self.owners[key] = scale
        entry, scale = Entry(name, units, exponent, scale.units), self.found(scale)
        scale.entries.append(entry)
        if anchor:
            scale.anchors.append(entry)

    def attach_all(
        self, scales: Sequence[_Scale], name: str, exponent: int, units: np.ndarray, anchor: bool = False
    ) -> None:
        """Attach a tensor to scales that follow each other; `units` counts through all of them."""
        start = 0
        for scale in scales:
            inside = (units >= start) & (units < start + scale.units)
            self.attach(scale, name, exponent, np.where(inside, units - start, -1), anchor, start)
            start += scale.units

    def of(self, tensor: Any) -> Scales:
        return self.names.get(id(tensor)) or self.values.get(id(tensor))

    def scales_of(self, tensor: Any) -> tuple[_Scale, ...]:
        scales = self.of(tensor)
        return tuple(self.found(scale) for scale in scales) if isinstance(scales, tuple) else ()

    def name_of(self, tensor: Any) -> str:
        """Return the name of a parameter that the function gets as it is."""
        return self.names.get(id(tensor), "")

    def call(self, call: Call) -> Scales:
        if call.function == "attention":
            return self.attention(call.module, self.scales_of(call.args[0]))
        if call.function in CONVOLUTIONS:
            return self.convolution(call)
        if call.function == "linear":
            return self.linear(call)
        if call.function == "batch_norm":
            return self.batch_norm(call)
        if call.function in ("layer_norm", "group_norm", "rms_norm"):
            return self.norm(call)
        if call.function in ("new_zeros", "zeros_like", "zeros"):
            return ZERO
        if call.function in HOMOGENEOUS:
            return self.fitting(call, self.of(call.inputs[0]))
        if call.function in ADDITIONS:
            return self.fitting(call, self.addition(call))
        if call.function in PRODUCTS:
            return self.fitting(call, self.product(call))
        for tensor in call.inputs:
            self.fix(self.of(tensor))
        return None

    def fitting(self, call: Call, scales: Scales) -> Scales:
        """Return `scales` if the result can have them: a dimension holds all units."""
        if isinstance(scales, tuple):
            total = sum(scale.units for scale in scales)
            if not any(length % total == 0 for tensor in call.outputs for length in tensor.shape):
                self.fix(scales)
                return None
        return scales

    def addition(self, call: Call) -> Scales:
        """Return the scales of a sum: all parts need the same factors."""
        tensors = [call.args[0], call.args[2]] if call.function == "setitem" else call.inputs
        values = [value for value in map(self.of, tensors) if value != ZERO]
        numbers = [value for value in call.args[:2] if isinstance(value, (int, float)) and value]
        parts = [value for value in values if isinstance(value, tuple)]
        if not parts:
            return values[0] if call.function == "cat" and values and len(set(values)) == 1 else None
        if call.function == "cat" and len(parts) == len(tensors):
            lengths = [sum(scale.units for scale in part) for part in parts]
            if lengths == [tensor.shape[call.argument(1, "dim", 0)] for tensor in tensors]:
                return tuple(scale for part in parts for scale in part)
        first = parts[0]
        alike = all([scale.units for scale in part] == [scale.units for scale in first] for part in parts)
        if None in values or not alike or (numbers and call.function not in ("cat", "stack", "setitem")):
            for part in parts:
                self.fix(part)
            return None
        for part in parts[1:]:
            for one, other in zip(first, part, strict=True):
                self.join(one, other)
        for name in (value for value in values if isinstance(value, str)):
            self.attach_parameter(first, name, 1)
        return first

    def attach_parameter(self, scales: Sequence[_Scale], name: str, exponent: int, anchor: bool = False) -> None:
        """Attach a parameter that is added to values or multiplies them, by its last axis with all units."""
        shape, total = tuple(self.tensors[name].shape) if name in self.tensors else (), sum(s.units for s in scales)
        axes = [axis for axis, length in enumerate(shape) if length == total]
        if axes:
            self.attach_all(scales, name, exponent, _positions(shape, axes[-1], np.arange(total)), anchor)
        else:
            self.fix(tuple(scales))

    def product(self, call: Call) -> Scales:
        """Return the scales of a product: a parameter gives new factors, other values have none."""
        values = [self.of(tensor) for tensor in call.inputs]
        parts = [value for value in values if isinstance(value, tuple)]
        names = [value for value in values if isinstance(value, str) and value != ZERO]
        divides = "div" in call.function
        if not parts:
            return None
        if len(parts) > 1 or len(names) > 1 or (divides and (names or self.of(call.args[0]) is not parts[0])):
            for part in parts:
                self.fix(part)
            return None
        if not names:
            return parts[0]
        (before,) = parts
        self.attach_parameter(before, names[0], -1)
        after = (self.new(sum(scale.units for scale in before)),)
        self.attach_parameter(after, names[0], 1, anchor=True)
        return after

    def produce(self, units: int, weight: str, axis: int, bias: str) -> tuple[_Scale, ...]:
        """Return the new scale of a module's outputs: the axis `axis` of its weight, and its bias."""
        out = self.new(units)
        self.attach(out, weight, 1, _positions(self.tensors[weight].shape, axis, np.arange(units)), anchor=True)
        self.attach(out, bias, 1, np.arange(units), anchor=True)
        return (out,)

    def convolution(self, call: Call) -> Scales:
        scales, tensor = self.scales_of(call.args[0]), call.argument(1, "weight")
        weight, bias = self.name_of(tensor), self.name_of(call.argument(2, "bias"))
        transposed, parts = "transpose" in call.function, call.argument(6, "groups", 1)
        inputs = call.args[0].shape[1]
        if not weight or (transposed and parts > 1):
            self.fix(scales)
            return None
        if sum(scale.units for scale in scales) != inputs:
            self.fix(scales)
        elif transposed:
            self.attach_all(scales, weight, -1, _positions(tensor.shape, 0, np.arange(inputs)))
        else:
            # Output o belongs to the part o // (O / parts), which reads the inputs of the same part.
            first = np.arange(tensor.shape[0]) // (tensor.shape[0] // parts) * tensor.shape[1]
            units = first[:, None] + np.arange(tensor.shape[1]) if parts > 1 else np.arange(inputs)[None]
            self.attach_all(scales, weight, -1, units.reshape(*units.shape, *[1] * (tensor.ndim - 2)))
        axis = 1 if transposed else 0
        return self.produce(tensor.shape[axis], weight, axis, bias)

    def linear(self, call: Call) -> Scales:
        scales, tensor = self.scales_of(call.args[0]), call.argument(1, "weight")
        weight, bias = self.name_of(tensor), self.name_of(call.argument(2, "bias"))
        (outputs, inputs), total = tensor.shape, sum(scale.units for scale in scales)
        if not weight or (scales and inputs % total):
            self.fix(scales)
        elif scales:
            # After a flattened feature map each channel has several inputs.
            self.attach_all(scales, weight, -1, np.arange(inputs)[None] // (inputs // total))
        return self.produce(outputs, weight, 0, bias) if weight else None

    def batch_norm(self, call: Call) -> Scales:
        """Return the scales of the outputs; the norm's weight undoes the inputs' factors."""
        scales = self.scales_of(call.args[0])
        names = [self.name_of(call.argument(index, name)) for index, name in enumerate(_BATCH_NORM, 1)]
        mean, variance, weight, bias = names
        units = call.args[0].shape[1]
        if not all(names) or call.argument(5, "training", False):
            self.fix(scales)
            return None
        if sum(scale.units for scale in scales) == units:
            # The running mean is folded into the bias, so it is 0 and has no factor.
            self.attach_all(scales, weight, -1, np.arange(units))
        else:
            self.fix(scales)
        self.norms[weight] = FoldedNorm(mean, variance, weight, bias, call.argument(7, "eps", 1e-5))
        return self.produce(units, weight, 0, bias)

    def norm(self, call: Call) -> Scales:
        """Return the scales of the outputs; all inputs of one statistic need a common factor."""
        scales = self.scales_of(call.args[0])
        grouped = call.function == "group_norm"
        tensor = call.argument(2, "weight")
        weight = self.name_of(tensor)
        bias = "" if call.function == "rms_norm" else self.name_of(call.argument(3, "bias"))
        if scales:
            self.tie(scales, call.argument(1, "num_groups") if grouped else 1)
        if not weight or tensor.ndim != 1:
            return None
        return self.produce(len(tensor), weight, 0, bias)

    def attention(self, name: str, scales: tuple[_Scale, ...]) -> Scales:
        module: Any = self.network.get_submodule(name)
        count, width = module.num_heads * module.head_dim, module.head_dim
        qkv, proj = f"{name}.qkv", f"{name}.proj"
        readers = [qkv, f"{name}.gate"] if getattr(module, "gate", None) is not None else [qkv]
        for reader in readers:
            self.attach_all(scales, f"{reader}.weight", -1, np.arange(module.qkv.in_features)[None])
        plain = all(isinstance(norm, nn.Identity) for norm in (module.q_norm, module.k_norm))
        if plain and module.qkv.bias is not None:
            self.keys[name] = KeyBias(f"{qkv}.bias", count, 2 * count)
        if plain and getattr(module, "rope", None) is None:
            own = self.new(count)
            self._rows(own, qkv, 0, count, 1)
            self._rows(own, qkv, 1, count, -1)
            if getattr(module, "use_rel_pos", False):
                # All heads share the tables, which only the queries meet.
                own.ties = np.arange(count) % width
                for table in ("rel_pos_h", "rel_pos_w"):
                    self.attach(own, f"{name}.{table}", -1, np.arange(width)[None])
        if isinstance(getattr(module, "norm", nn.Identity()), nn.Identity):
            own = self.new(count)
            self._rows(own, qkv, 2, count, 1)
            self.attach(own, f"{proj}.weight", -1, np.arange(count)[None])
        return self.produce(module.proj.out_features, f"{proj}.weight", 0, f"{proj}.bias")

    def _rows(self, scale: _Scale, qkv: str, part: int, count: int, exponent: int) -> None:
        """Attach the rows of queries (part 0), keys (1) or values (2) of the joint module."""
        units = np.full(3 * count, -1)
        units[part * count : (part + 1) * count] = np.arange(count)
        self.attach(scale, f"{qkv}.weight", exponent, units[:, None], anchor=exponent > 0, start=part)
        self.attach(scale, f"{qkv}.bias", exponent, units, anchor=exponent > 0, start=part)


_BATCH_NORM = ("running_mean", "running_var", "weight", "bias")


def find_scaling(network: nn.Module, inputs: Tensor, forward: Forward = call_network) -> Scaling:
    """Return the scale symmetries of `network` in evaluation mode, or none if the walk or the test fails.

    `forward` runs the network on `inputs` [n, ...]. The test: random factors for all groups must keep the outputs. If
    they do not, each group is tested alone, and the result has the groups that pass.
    """
    network, inputs = copy.deepcopy(network).cpu(), inputs.cpu()
    try:
        varied = vary(network)
        scaling = _ScaleWalk(network).run(record(network, inputs, forward))
    except FAILURES:
        return Scaling()
    draw = np.random.default_rng(0)
    factors = {group: np.exp(draw.uniform(-0.7, 0.7, group.units)) for group in scaling.groups}

    def moved(chosen: Sequence[ScaleGroup]) -> Mapping[str, np.ndarray]:
        tensors, part = as_arrays(varied), replace(scaling, groups=tuple(chosen))
        part.fold(tensors)
        part.rescale(tensors, [factors[group] for group in chosen])
        return tensors

    found = keeping_outputs(network, inputs, forward, varied, scaling.groups, moved)
    return replace(scaling, groups=tuple(found)) if found else Scaling()
