"""The tokenizer of an architecture that was not trained: statistics from trained architectures of the same family.

The trained architectures have the same tensors by name, in other shapes, as networks of several widths have. Their
statistics are interpolated, tensor by tensor, in the logarithm of the tensor's number of weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.utils.errors import UserError


def family_tokenizer(layout: Layout, trained: Sequence[Tokenizer], states: int) -> Tokenizer:
    """Return the tokenizer of `layout`, for networks of any of `states` states.

    Copied tensors are those of the trained architecture with the nearest number of weights, in its first state. Raises
    UserError if a trained architecture has other tensors, or if a copied tensor has another shape.
    """
    names = [tensor.name for tensor in layout.tokenized]
    for tokenizer in trained:
        if [tensor.name for tensor in tokenizer.layout.tokenized] != names:
            raise UserError("an architecture that was not trained must have the tensors of all trained architectures")
    by_name = {
        name: torch.tensor(
            [
                _interpolated(
                    math.prod(tensor.shape),
                    [
                        (math.prod(tokenizer.layout.tokenized[k].shape), getattr(tokenizer.stats, name)[k].item())
                        for tokenizer in trained
                    ],
                )
                for k, tensor in enumerate(layout.tokenized)
            ],
            dtype=torch.float64,
        )
        for name in Stats.__dataclass_fields__
    }
    nearest = min(trained, key=lambda one: abs(math.log(one.layout.weights / layout.weights)))
    skipped: dict[str, Tensor] = {}
    for tensor in layout.skipped:
        values = nearest.skipped.get(tensor.name)
        if values is None or tuple(values.shape[1:]) != tensor.shape:
            raise UserError(f"tensor '{tensor.name}' can't be copied from a trained architecture: the shapes differ")
        skipped[tensor.name] = values[:1].expand(states, *tensor.shape)
    return Tokenizer(layout, Stats(**by_name), skipped)


def _interpolated(weights: int, known: Sequence[tuple[int, float]]) -> float:
    """Return the number for a tensor of `weights` weights, from (weights, number) of the trained architectures.

    Between the two nearest numbers of weights the function is linear in the logarithm; outside it is constant.
    """
    at = {size: [value for other, value in known if other == size] for size, _ in known}
    means = {size: sum(values) / len(values) for size, values in at.items()}
    below = [size for size in means if size <= weights]
    above = [size for size in means if size >= weights]
    if not below or not above:
        return means[min(above) if above else max(below)]
    low, high = max(below), min(above)
    if low == high:
        return means[low]
    share = math.log(weights / low) / math.log(high / low)
    return (1 - share) * means[low] + share * means[high]
