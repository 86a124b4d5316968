"""Scale symmetries of a source network: positive factors on units that keep the network's function.

A *scale group* has G units, one factor for each, and entries: parts of tensors that are multiplied by a power of their
unit's factor. Examples:

    convolution, ReLU, convolution   outputs of the first · s, inputs of the second / s
    convolution, BatchNorm           outputs · s, the norm's weight / s, once its statistics are folded into its weights
    LayerNorm, linear                the norm's weight and bias · s, inputs of the linear module / s
    linear, LayerNorm                all outputs · s, one factor for all units, because the norm removes only this
    attention                        a query's row · s, the key's row / s; a value's row · s, the output's column / s

These are the symmetries of Neyshabur et al. 2015 ("Path-SGD") and Kunin et al. 2021 ("Neural Mechanics"). The module
`scale_walk` finds the groups. `Scaling.canonical` maps a network and all its rescaled copies to the same
weights, up to rounding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor that is multiplied by a power of its units' factors.

    `units` broadcasts to the tensor's shape and holds each weight's unit, or -1 for a weight outside the group, which
    has `count` units.
    """

    name: str
    units: np.ndarray
    exponent: int
    count: int

    @cached_property
    def other_axes(self) -> tuple[int, ...]:
        """The tensor's axes along which all weights belong to one unit."""
        return tuple(axis for axis, length in enumerate(self.units.shape) if length == 1)

    @cached_property
    def is_plain(self) -> bool:
        """Whether `units` counts all units of the group in order."""
        return np.array_equal(self.units.ravel(), np.arange(self.count))


@dataclass(frozen=True, eq=False)
class ScaleGroup:
    """G units and their entries; `anchors` are the entries of the module that makes the units' values."""

    units: int
    entries: tuple[Entry, ...]
    anchors: tuple[Entry, ...]

    @property
    def consumers(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.exponent < 0)

    @property
    def producers(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.exponent > 0)


@dataclass(frozen=True)
class FoldedNorm:
    """A BatchNorm: the names of its tensors, and its epsilon."""

    mean: str
    variance: str
    weight: str
    bias: str
    eps: float

    @property
    def names(self) -> set[str]:
        return {self.mean, self.variance, self.weight, self.bias}


@dataclass(frozen=True)
class KeyBias:
    """The part of a bias that belongs to attention's keys; softmax cancels it, because it shifts all keys alike."""

    name: str
    start: int
    stop: int


Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scaling:
    """The scale groups of an architecture, in the order of its forward pass, its BatchNorms and biases of keys."""

    groups: tuple[ScaleGroup, ...] = ()
    norms: tuple[FoldedNorm, ...] = ()
    keys: tuple[KeyBias, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.norms or self.keys)

    def restricted(self, names: Iterable[str]) -> "Scaling":
        """Return the symmetries with the tensors `names` only."""
        kept = set(names)

        def of(entries: Sequence[Entry]) -> tuple[Entry, ...]:
            return tuple(entry for entry in entries if entry.name in kept)

        groups = [ScaleGroup(group.units, of(group.entries), of(group.anchors)) for group in self.groups]
        return Scaling(
            tuple(group for group in groups if group.entries and group.anchors),
            tuple(norm for norm in self.norms if norm.names <= kept),
            tuple(key for key in self.keys if key.name in kept),
        )

    def fold(self, tensors: Arrays) -> None:
        """Move each BatchNorm's statistics into its weight and bias, and clear biases of keys, in place.

        The outputs stay the same.
        """
        for norm in self.norms:
            tensors[norm.weight] /= np.sqrt(tensors[norm.variance] + norm.eps)
            # With these statistics, the norm subtracts 0 and divides by 1.
            tensors[norm.variance][:] = 1 - norm.eps
            tensors[norm.bias] -= tensors[norm.weight] * tensors[norm.mean]
            tensors[norm.mean][:] = 0
        for key in self.keys:
            tensors[key.name][key.start : key.stop] = 0

    def canonical(self, tensors: Arrays) -> None:
        """Give the network its canonical scale, in place; rescaled copies become equal, up to rounding.

        First each unit's anchors get the norm 1, group by group in the order of the forward pass. Then each unit's
        factor balances the norms of its producers and consumers, so that a unit without effect has small weights.
        """
        self.fold(tensors)
        for group in self.groups:
            _apply(tensors, group, _inverse(_norms(tensors, group.anchors, group.units)))
        factors = [
            np.sqrt(
                _norms(tensors, group.consumers, group.units) * _inverse(_norms(tensors, group.producers, group.units))
            )
            if group.consumers
            else None
            for group in self.groups
        ]
        for group, factor in zip(self.groups, factors, strict=True):
            if factor is not None:
                # A unit that nothing reads keeps its weights.
                _apply(tensors, group, np.where(factor > 0, factor, 1))

    def rescale(self, tensors: Arrays, factors: Sequence[np.ndarray]) -> None:
        """Multiply the weights by the groups' factors, [G] each, in place; the outputs stay the same."""
        for group, factor in zip(self.groups, factors, strict=True):
            _apply(tensors, group, factor)


def _norms(tensors: Arrays, entries: Sequence[Entry], units: int) -> np.ndarray:
    """Return [G] the norms of the units' weights in all entries."""
    squares_G = np.zeros(units, np.float32)
    for entry in entries:
        sums = np.square(tensors[entry.name]).sum(axis=entry.other_axes).ravel()
        # Unit -1 is the first bin.
        squares_G += sums if entry.is_plain else np.bincount(entry.units.ravel() + 1, sums, units + 1)[1:]
    return np.sqrt(squares_G)


def _inverse(norms_G: np.ndarray) -> np.ndarray:
    """Return 1 / norm; 1 for a unit without weights."""
    return 1 / np.where(norms_G > 0, norms_G, 1)


def _apply(tensors: Arrays, group: ScaleGroup, factors_G: np.ndarray) -> None:
    for entry in group.entries:
        powers_G = factors_G if entry.exponent == 1 else factors_G**entry.exponent
        # Unit -1 is the last number.
        spread = powers_G.reshape(entry.units.shape) if entry.is_plain else np.append(powers_G, 1)[entry.units]
        tensor = tensors[entry.name]
        np.multiply(tensor, spread, out=tensor, casting="same_kind")
