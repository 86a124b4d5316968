"""Tensors that RPG copies from the zoo instead of generating them.

- Buffers that are state of the network, not weights: masks, power iterations, observers. BatchNorm's running mean and
  variance are learned from the data and become tokens, as published.
- Tensors that are equal in all checkpoints, such as frozen layers: a generated value would differ a little.
- Tensors that the user leaves out.
- Tied tensors: two names of one tensor, such as a language model's embedding and output layer. The first becomes
  tokens, the other is its copy.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from rpg.blocks import PARAMS_FILE
from rpg.tokenizer.canonical import pairs
from rpg.utils.errors import UserError, suggestion

# The number of values to compare first: most tensors differ there already.
SAMPLE = 64


@dataclass(frozen=True)
class Copied:
    """The copied tensors of a zoo; `tied` maps the name of a tied tensor to the earlier name of the same tensor."""

    buffers: Collection[str] = ()
    constant: Collection[str] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    left_out: Collection[str] = ()

    def __contains__(self, name: str) -> bool:
        return any(name in names for names in (self.buffers, self.constant, self.tied, self.left_out))

    def __str__(self) -> str:
        kinds = {
            "state of the network": self.buffers,
            "equal in all checkpoints": self.constant,
            "tied to another tensor": self.tied,
            "left out by tokens.only": self.left_out,
        }
        return "; ".join(f"{kind}: {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def copied_tensors(
    state_dicts: Callable[[], Iterator[dict[str, Tensor]]],
    buffers: Collection[str],
    tied: Mapping[str, str],
    canonical: bool,
    only: Collection[str] | None = None,
) -> Copied:
    """Return the copied tensors of a zoo; `state_dicts` yields its checkpoints, of which it reads as few as it can.

    `buffers` names tensors that are no weights. `tied` maps further names of the network's tensors to the first ones.
    They count if they are equal in all checkpoints. Equality alone is no tie: two biases that are added to one sum have
    equal gradients, and so, from equal starts, equal values. Counters, integers and single numbers are copied anyway
    and are not listed. With `canonical`, low-rank pairs are generated even if one of the two is constant, because the
    canonical form changes both. If all checkpoints are equal, none of their tensors counts as constant. With `only`,
    names and patterns, all other weights are left out. Raises UserError if one of them fits no tensor.
    """
    checkpoints = state_dicts()
    first = next(checkpoints)
    if unknown := next((name for name in only or () if not any(fnmatchcase(own, name) for own in first)), None):
        raise UserError(f"{PARAMS_FILE}: tokens.only: no tensor '{unknown}'{suggestion(unknown, list(first))}")
    left_out = tuple(name for name in first if only and not any(fnmatchcase(name, one) for one in only))
    paired = {name for pair in pairs(first) for name in pair} if canonical else set()
    weights = {
        name: tensor
        for name, tensor in first.items()
        if tensor.is_floating_point() and tensor.numel() > 1 and name not in {*paired, *left_out}
    }
    state = [name for name in weights if name in buffers]
    constant = {name for name in weights if name not in buffers}
    tied = {
        name: other for name, other in tied.items() if {name, other} <= constant and same(first[name], first[other])
    }
    alone = True
    for state_dict in checkpoints:
        alone = False
        constant = {name for name in constant if name in state_dict and same(first[name], state_dict[name])}
        tied = {
            name: other
            for name, other in tied.items()
            if {name, other} <= state_dict.keys() and same(state_dict[name], state_dict[other])
        }
        if not constant and not tied:
            break
    if alone or (not paired and len(constant) + len(state) == len(weights)):
        constant = set()
    tied = {name: other for name, other in tied.items() if name not in constant}
    return Copied(state, [name for name in weights if name in constant], tied, left_out)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and values; a NaN differs from itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.flatten(), b.flatten()
    return torch.equal(a[:SAMPLE], b[:SAMPLE]) and torch.equal(a, b)
