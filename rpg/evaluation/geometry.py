"""Distances between networks of one architecture, which are points in the space of their normalized weights.

All distances are root mean squares over the weights. Each tensor is normalized as tokens are, so the distance 1 is the
standard deviation of a tensor's weights. N checkpoints, P weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rpg.evaluation.alignment import PermutationGroup, match, permute
from rpg.tokenizer.layout import Layout


class Space:
    """Convert networks to points and back: a point has P normalized weights in the order of the layout's tokens."""

    def __init__(self, layout: Layout, groups: Sequence[PermutationGroup]) -> None:
        """Keep the axes of `groups` that the layout tokenizes; `groups` are the units that may be permuted."""
        self.layout = layout
        self.padding_LD = layout.padding()
        names = {tensor.name for tensor in layout.tokenized}
        restricted = [
            PermutationGroup(group.units, [axis for axis in group.axes if axis.name in names]) for group in groups
        ]
        self.groups = [group for group in restricted if group.axes]

    def point(self, tokens_LD: Tensor) -> np.ndarray:
        """Return the point [P] of tokens [L, D]."""
        return tokens_LD[~self.padding_LD].numpy()

    def tokens(self, point_P: np.ndarray) -> Tensor:
        """Return the tokens [L, D] of a point; the padding is 0."""
        tokens_LD = torch.zeros(self.padding_LD.shape)
        tokens_LD[~self.padding_LD] = torch.from_numpy(point_P).to(tokens_LD.dtype)
        return tokens_LD

    def tensors(self, point_P: np.ndarray) -> dict[str, np.ndarray]:
        """Return the network's tensors of a point."""
        sizes = [int(np.prod(tensor.shape)) for tensor in self.layout.tokenized]
        parts = np.split(point_P, np.cumsum(sizes)[:-1])
        return {
            tensor.name: part.reshape(tensor.shape) for tensor, part in zip(self.layout.tokenized, parts, strict=True)
        }

    def order(self, point_P: np.ndarray, target_P: np.ndarray) -> np.ndarray | slice:
        """Return indices that align the units of `point_P`, and of other points of its run, with the target's units."""
        if not self.groups:
            return slice(None)
        orders = match(self.tensors(point_P), self.tensors(target_P), self.groups)
        if all(np.array_equal(order, np.arange(len(order))) for order in orders):
            return slice(None)
        moved = permute(self.tensors(np.arange(len(point_P))), self.groups, orders)
        return np.concatenate([moved[tensor.name].ravel() for tensor in self.layout.tokenized])


@dataclass(frozen=True)
class ZooPoints:
    """The checkpoints that RPG learned from, as points [N, P]; `seeds` and `codes` [N] name their training runs."""

    space: Space
    points_NP: np.ndarray
    seeds: np.ndarray
    codes: np.ndarray

    def distances(self, point_P: np.ndarray) -> np.ndarray:
        """Return the root mean square distances [N] of a point to the checkpoints."""
        return np.sqrt(np.mean(np.square(self.points_NP - point_P), axis=1))

    def align(self, point_P: np.ndarray, own_index: int | None = None) -> np.ndarray:
        """Return the checkpoints [N, P] with each seed's units permuted to match the network at `point_P`.

        The seed's checkpoint nearest to the point, other than `own_index`, is matched and sets the order for the seed.
        """
        distances, aligned_NP = self.distances(point_P), self.points_NP.copy()
        for seed in np.unique(self.seeds):
            of_seed = np.flatnonzero(self.seeds == seed)
            candidates = of_seed[of_seed != own_index]
            if len(candidates):
                nearest = candidates[distances[candidates].argmin()]
                order = self.space.order(self.points_NP[nearest], point_P)
                if not isinstance(order, slice):
                    aligned_NP[of_seed] = self.points_NP[of_seed][:, order]
        return aligned_NP

    def measure(self, point_P: np.ndarray, own_index: int | None = None, align: bool = True) -> dict[str, float | int]:
        """Measure the distances of a network from the checkpoints; `own_index` is its index if it is a checkpoint.

        `nearest` is the index of the nearest checkpoint, `distance` the distance to it. With `align`, `aligned` is the
        distance after permutation of units, and `residual` the distance to the nearest affine combination of
        checkpoints. A checkpoint is compared with all others. Its `distance_across` and `aligned_across` are distances
        to checkpoints of other training runs, and its residual is from these checkpoints. A measure without checkpoints
        to compare with is absent.
        """
        distances = self.distances(point_P)
        others, other_runs = np.full(len(distances), True), np.full(len(distances), True)
        if own_index is not None:
            others[own_index] = False
            other_runs = (self.seeds != self.seeds[own_index]) | (self.codes != self.codes[own_index])
        measures: dict[str, float | int] = {}

        def record_minimum(name: str, values: np.ndarray, chosen: np.ndarray) -> None:
            if chosen.any():
                measures[name] = float(values[chosen].min())

        if others.any():
            measures["nearest"] = int(np.where(others, distances, np.inf).argmin())
        record_minimum("distance", distances, others)
        if own_index is not None:
            record_minimum("distance_across", distances, other_runs)
        if align:
            aligned_NP = self.align(point_P, own_index)
            # A match is a heuristic, so the distance without it may be smaller.
            aligned_distances = np.minimum(distances, np.sqrt(np.mean(np.square(aligned_NP - point_P), axis=1)))
            record_minimum("aligned", aligned_distances, others)
            if own_index is not None:
                record_minimum("aligned_across", aligned_distances, other_runs)
            if other_runs.any():
                measures["residual"] = residual(point_P, aligned_NP[other_runs])
        return measures


def residual(point_P: np.ndarray, others_NP: np.ndarray) -> float:
    """Return the root mean square distance of a point from the affine hull of other points [N, P]."""
    center_P = others_NP.mean(0, dtype=np.float64)
    spread_NP, offset_P = others_NP - center_P, point_P - center_P
    # Solve by the N × N matrix of inner products, because P is much larger than N.
    weights_N = np.linalg.pinv(spread_NP @ spread_NP.T, rcond=1e-8, hermitian=True) @ (spread_NP @ offset_P)
    return float(np.sqrt(np.mean(np.square(offset_P - weights_N @ spread_NP))))
