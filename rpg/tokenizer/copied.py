"""Tensors that RPG copies from the zoo instead of generating them.

- Buffers that are state of the network, not weights: masks, power iterations, observers. BatchNorm's running mean and
  variance are learned from the data and become tokens, as published.
- Tensors that are equal in all checkpoints, such as frozen layers: a generated value would differ a little.
- Tied tensors: two names of one tensor, such as a language model's embedding and output layer. The first becomes
  tokens, the other is its copy.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rpg.tokenizer.canonical import pairs

# The number of values to compare first: most tensors differ there already.
SAMPLE = 64


@dataclass(frozen=True)
class Copied:
    """The copied tensors of a zoo; `tied` maps the name of a tied tensor to the earlier name of the same tensor."""

    buffers: Collection[str] = ()
    constant: Collection[str] = ()
    tied: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.buffers or name in self.constant or name in self.tied

    def __str__(self) -> str:
        kinds = {
            "state of the network": self.buffers,
            "equal in all checkpoints": self.constant,
            "tied to another tensor": self.tied,
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
) -> Copied:
    """Return the copied tensors of a zoo; `state_dicts` yields its checkpoints, of which it reads as few as it can.

    `buffers` names tensors that are no weights. `tied` maps further names of the network's tensors to the first ones.
    They count if they are equal in all checkpoints. Equality alone is no tie: two biases that are added to one sum have
    equal gradients, and so, from equal starts, equal values. Counters, integers and single numbers are copied anyway
    and are not listed. With `canonical`, low-rank pairs are generated even if one of the two is constant, because the
    canonical form changes both. If all checkpoints are equal, none of their tensors counts as constant.
    """
    checkpoints = state_dicts()
    first = next(checkpoints)
    paired = {name for pair in pairs(first) for name in pair} if canonical else set()
    weights = {
        name: tensor
        for name, tensor in first.items()
        if tensor.is_floating_point() and tensor.numel() > 1 and name not in paired
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
    return Copied(state, [name for name in weights if name in constant], tied)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and values; a NaN differs from itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.flatten(), b.flatten()
    return torch.equal(a[:SAMPLE], b[:SAMPLE]) and torch.equal(a, b)
