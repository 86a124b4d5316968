"""Normalization: state dicts as tokens, and back.

A state dict's tensors are normalized one by one, flattened in the state dict's order, padded with NaN to a multiple of
D and cut into rows (RPG section 2.1 and its published code):

    running_var:  v → log(v / m + 0.05), m = 0.95 · mean(v)
    every tensor: w → (w − μ) / σ

L tokens per checkpoint, D token width, K tensors that become tokens.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rpg.tokenizer.layout import Layout

VARIANCE_SHIFT = 0.05


VARIANCE_FLOOR = 0.001


VARIANCE_MEAN_SHARE = 0.95


# Weights that are computed with at once, in float64: the processor's cache holds them, and memory is for the rest.
CHUNK = 2**16


# A standard deviation below this share of the mean is rounding: the tensor is constant.
CONSTANT = 1e-9


@dataclass(frozen=True)
class Stats:
    """Per-tensor statistics of a zoo, each [K] float64, in the order of `Layout.tokenized`.

    `mean` and `std` are averages over checkpoints of each checkpoint's mean and unbiased standard deviation, taken
    after the running_var transform with the checkpoint's own m. `scale` is the average m and `floor` the smallest
    v / m that the inverse gives back (both unused for other tensors): 0.001 as published, or less where the zoo has
    less, since a clamp above the zoo's own variances would not give them back.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    floor: Tensor

    @classmethod
    def of(cls, layout: Layout, state_dicts: Iterable[dict[str, Tensor]]) -> "Stats":
        """Statistics over `state_dicts`, which are read once, one after another."""
        count, total = 0, torch.zeros(3, len(layout.tokenized), dtype=torch.float64)
        smallest = torch.full((len(layout.tokenized),), math.inf, dtype=torch.float64)
        for state_dict in state_dicts:
            count += 1
            for k, tensor in enumerate(layout.tokenized):
                weights, scale = state_dict[tensor.name].flatten(), 1.0
                if tensor.is_variance:
                    weights = weights.double()
                    # A network that was never in training mode may have no variance at all: m = 0 would divide by it.
                    scale = VARIANCE_MEAN_SHARE * weights.mean().item() or 1.0
                    smallest[k] = torch.minimum(smallest[k], weights.min())
                    weights = torch.log(weights / scale + VARIANCE_SHIFT)
                std, mean = _std_mean(weights)
                total[:, k] += torch.tensor([mean, std, scale])
        mean, std, scale = total / count
        # A constant tensor has nothing to scale; σ = 1 keeps it as it is instead of making NaN, which means padding.
        std = torch.where(std > CONSTANT * mean.abs(), std, 1.0)
        return cls(mean, std, scale, torch.clamp(smallest / scale, max=VARIANCE_FLOOR))


def _std_mean(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased standard deviation and mean of `weights` [n] in float64, from those of parts (Chan et al. 1983)."""
    # Parts of about one length: none is so short that it has no deviation.
    parts = weights.tensor_split(math.ceil(len(weights) / (16 * CHUNK)))
    variances, means = (torch.stack(of) for of in zip(*(torch.var_mean(part.double()) for part in parts), strict=True))
    counts = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    mean = (means * (counts / len(weights))).sum()
    within = (variances * ((counts - 1) / (len(weights) - 1))).sum()
    return torch.sqrt(within + (counts * (means - mean).square()).sum() / (len(weights) - 1)), mean


def tokenize(state_dict: dict[str, Tensor], layout: Layout, stats: Stats, into: Tensor | None = None) -> Tensor:
    """State dict → tokens [L, D] float32, normalised, NaN where there is no weight; written to `into` if it is given.

    `detokenize` gives each tensor back to within 1e-6 of its largest weight. Low-rank pairs are taken as they are;
    `TokenStore.tokenize` brings them into the zoo's form.
    """
    tokens_LD = torch.empty(layout.length, layout.width) if into is None else into
    exact = torch.empty(CHUNK, dtype=torch.float64)
    for k, tensor in enumerate(layout.tokenized):
        rows = tokens_LD[tensor.first : tensor.first + tensor.tokens].view(-1)
        weights = state_dict[tensor.name].flatten()
        rows[len(weights) :] = math.nan
        for part, row in zip(weights.split(CHUNK), rows[: len(weights)].split(CHUNK), strict=True):
            weight = exact[: len(part)].copy_(part)
            if tensor.is_variance:
                weight.div_(stats.scale[k]).add_(VARIANCE_SHIFT).log_()
            row.copy_(weight.sub_(stats.mean[k]).div_(stats.std[k]))
    return tokens_LD


def detokenize(tokens_LD: Tensor, layout: Layout, stats: Stats, skipped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tokens [..., L, D] → state dict in the layout's order, each tensor [..., *shape], differentiably.

    The tensors that never were tokens are taken from `skipped`, which must have their leading dimensions already.
    """
    # Numbers of Python's: tensors of no dimension would cost as much as the weights. But for the means, to which a
    # multiple of the weights can then be added in one pass.
    means, stds, scales, floors = stats.mean.unbind(), *(values.tolist() for values in [*vars(stats).values()][1:])
    state_dict, k = {}, 0
    for tensor in layout.tensors:
        if not tensor.tokens:
            state_dict[tensor.name] = skipped[tensor.name].clone()
            continue
        rows = tokens_LD[..., tensor.first : tensor.first + tensor.tokens, :].flatten(-2)
        weights = rows[..., : math.prod(tensor.shape)]
        if tensor.is_variance:
            # A small variance is a small difference, which float32 would not give back.
            weights = torch.exp(weights.double() * stds[k] + means[k]) - VARIANCE_SHIFT
            weights = torch.clamp(weights, min=floors[k]) * scales[k]
        else:
            weights = torch.add(means[k], weights, alpha=stds[k])
        state_dict[tensor.name] = weights.to(getattr(torch, tensor.dtype)).unflatten(-1, tensor.shape)
        k += 1
    return state_dict
