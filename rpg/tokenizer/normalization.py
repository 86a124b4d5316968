"""Normalization: convert state dicts to tokens and back.

The tensors of a state dict are normalized one by one, flattened in the state dict's order, padded with NaN to a
multiple of D and cut into rows (RPG section 2.1 and its published code). With `tokens.by_channel`, each output channel
is padded on its own.

    running_var:  v → log(v / m + 0.05), m = 0.95 · mean(v)
    every tensor: w → (w − μ) / σ

L tokens per checkpoint, D token width, K tensors that become tokens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rpg.tokenizer.layout import Layout
from rpg.utils.statistics import divisor

VARIANCE_SHIFT = 0.05


VARIANCE_FLOOR = 0.001


VARIANCE_MEAN_SHARE = 0.95


# Number of weights to process at once in float64, so that they fit the processor's cache.
CHUNK = 2**17


# Length of the rows of a chunk. torch divides the sum of a whole chunk among its threads, which changes the last bits;
# it never divides the sum of a row.
ROW = 2**10


# Mean, deviation, scale and floor of one tensor.
Numbers = tuple[Tensor, float, float, float]


@dataclass(frozen=True)
class Stats:
    """Statistics of a zoo per tensor, each [K] float64, in the order of `Layout.tokenized`.

    `mean` and `std` are averages over checkpoints of each checkpoint's mean and unbiased standard deviation, after the
    running_var transform with the checkpoint's own m. `scale` is the average m. `floor` is the smallest v / m that the
    inverse returns: 0.001 as published, or less if the zoo has smaller variances, because a higher clamp would change
    them. `scale` and `floor` apply to running_var only.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    floor: Tensor

    def numbers(self) -> list[Numbers]:
        """Return (mean, std, scale, floor) of each tensor.

        Python numbers are faster than zero-dimensional tensors. Only the means stay tensors, because torch.add can add
        a multiple of the weights to a tensor in one pass.
        """
        others = (values.tolist() for values in (self.std, self.scale, self.floor))
        return list(zip(self.mean.unbind(), *others, strict=True))

    @classmethod
    def of(cls, layout: Layout, state_dicts: Iterable[dict[str, Tensor]]) -> "Stats":
        """Return the statistics over `state_dicts`, which is iterated once."""
        count, total = 0, torch.zeros(3, len(layout.tokenized), dtype=torch.float64)
        smallest = torch.full((len(layout.tokenized),), math.inf, dtype=torch.float64)
        for state_dict in state_dicts:
            count += 1
            for k, tensor in enumerate(layout.tokenized):
                weights, scale = state_dict[tensor.name].flatten(), 1.0
                if tensor.is_variance:
                    weights = weights.double()
                    # A network that was never in training mode may have zero variance; this avoids a division by m = 0.
                    scale = VARIANCE_MEAN_SHARE * weights.mean().item() or 1.0
                    smallest[k] = torch.minimum(smallest[k], weights.min())
                    weights = torch.log(weights / scale + VARIANCE_SHIFT)
                std, mean = _std_mean(weights)
                total[:, k] += torch.tensor([mean, std, scale])
        mean, std, scale = total / count
        # Division by 0 would give NaN, which means padding.
        return cls(mean, divisor(std, mean), scale, torch.clamp(smallest / scale, max=VARIANCE_FLOOR))


def _std_mean(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unbiased standard deviation and mean of `weights` [n] in float64, for any number of threads.

    The function merges the statistics of chunks (Chan et al. 1983).
    """
    exact = torch.empty(math.ceil(min(len(weights), CHUNK) / ROW), ROW, dtype=torch.float64)
    parts = weights.split(CHUNK)
    means, squares = (torch.stack(of) for of in zip(*(_moments(part, exact) for part in parts), strict=True))
    counts = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    mean = (means * (counts / len(weights))).sum()
    return torch.sqrt((squares.sum() + (counts * (means - mean).square()).sum()) / (len(weights) - 1)), mean


def _moments(part: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of `part` [n] and the sum of squared deviations from it; `exact` is scratch memory."""
    rows = exact[: math.ceil(len(part) / ROW)]
    weights, rest = rows.view(-1).tensor_split([len(part)])
    weights.copy_(part)
    rest.zero_()
    mean = rows.sum(1).sum() / len(part)
    weights.sub_(mean).square_()
    return mean, rows.sum(1).sum()


def tokenize(state_dict: dict[str, Tensor], layout: Layout, stats: Stats) -> Tensor:
    """Convert a state dict to normalized tokens [L, D] float32 with NaN padding.

    `detokenize` restores each tensor to within 1e-6 of its largest weight. This function leaves low-rank pairs
    unchanged; `TokenStore.tokenize` first gives them the zoo's canonical form.
    """
    return tokenize_rows(state_dict, layout, stats, 0, torch.empty(layout.length, layout.width))


def tokenize_rows(state_dict: dict[str, Tensor], layout: Layout, stats: Stats, start: int, into_RD: Tensor) -> Tensor:
    """Write the tokens from row `start` on into `into_RD`, which is contiguous, and return it."""
    exact = torch.empty(min(CHUNK, into_RD.numel()), dtype=torch.float64)
    stop = start + len(into_RD)
    for k, tensor in enumerate(layout.tokenized):
        first, last = max(start, tensor.first), min(stop, tensor.first + tensor.tokens)
        if first >= last:
            continue
        rows = into_RD[first - start : last - start].view(-1)
        padded = tensor.padded(state_dict[tensor.name], layout.width)
        weights = padded[(first - tensor.first) * layout.width :][: len(rows)]
        rows[len(weights) :] = math.nan
        for part, row in zip(weights.split(CHUNK), rows[: len(weights)].split(CHUNK), strict=True):
            weight = exact[: len(part)].copy_(part)
            if tensor.is_variance:
                weight.div_(stats.scale[k]).add_(VARIANCE_SHIFT).log_()
            row.copy_(weight.sub_(stats.mean[k]).div_(stats.std[k]))
    return into_RD


def detokenize(tokens_LD: Tensor, layout: Layout, stats: Stats, skipped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert tokens [..., L, D] to a state dict in the layout's order, each tensor [..., *shape], differentiably.

    `skipped` holds the tensors without tokens, with the leading dimensions of the tokens.
    """
    made = generated(tokens_LD, layout, stats.numbers())
    state_dict: dict[str, Tensor] = {}
    for tensor in layout.tensors:
        if tensor.tied_to:
            state_dict[tensor.name] = state_dict[tensor.tied_to].clone()
        else:
            state_dict[tensor.name] = made[tensor.name] if tensor.tokens else skipped[tensor.name].clone()
    return state_dict


def generated(tokens_LD: Tensor, layout: Layout, numbers: Sequence[Numbers]) -> dict[str, Tensor]:
    """Return the tensors [..., *shape] that tokens [..., L, D] hold; `numbers` are those of the statistics."""
    tensors: dict[str, Tensor] = {}
    for tensor, (mean, std, scale, floor) in zip(layout.tokenized, numbers, strict=True):
        weights = tensor.unpadded(tokens_LD[..., tensor.first : tensor.first + tensor.tokens, :])
        if tensor.is_variance:
            # A small variance is a small difference of two numbers, for which float32 is too coarse.
            weights = torch.exp(weights.double() * std + mean) - VARIANCE_SHIFT
            weights = torch.clamp(weights, min=floor) * scale
        else:
            weights = torch.add(mean, weights, alpha=std)
        tensors[tensor.name] = weights.to(getattr(torch, tensor.dtype)).unflatten(-1, tensor.shape)
    return tensors
