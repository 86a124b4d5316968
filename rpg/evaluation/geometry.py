"""Networks of one architecture as points in the space of their normalised weights, and a zoo's place in it.

All distances are root mean squares over the weights, each tensor normalised as tokens are, so that 1 is the standard
deviation of a tensor's weights. N checkpoints, P weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rpg.evaluation.alignment import PermutationGroup, match, permute
from rpg.tokenizer.layout import Layout


class Space:
    """Networks of one architecture as points: their P normalised weights, in the order of the layout's tokens."""

    def __init__(self, layout: Layout, found: Sequence[PermutationGroup]) -> None:
        """`found`: the groups of units that may be permuted."""
        self.layout = layout
        self.padding_LD = layout.padding()
        names = {tensor.name for tensor in layout.tokenized}
        restricted = [
            PermutationGroup(group.units, [axis for axis in group.axes if axis.name in names]) for group in found
        ]
        self.groups = [group for group in restricted if group.axes]

    def point(self, tokens_LD: Tensor) -> np.ndarray:
        """[P] from tokens [L, D]."""
        return tokens_LD[~self.padding_LD].numpy()

    def tokens(self, point_P: np.ndarray) -> Tensor:
        """Tokens [L, D], 0 where there is no weight."""
        tokens_LD = torch.zeros(self.padding_LD.shape)
        tokens_LD[~self.padding_LD] = torch.from_numpy(point_P).to(tokens_LD.dtype)
        return tokens_LD

    def tensors(self, point_P: np.ndarray) -> dict[str, np.ndarray]:
        """The point as the tensors of the network."""
        sizes = [int(np.prod(tensor.shape)) for tensor in self.layout.tokenized]
        parts = np.split(point_P, np.cumsum(sizes)[:-1])
        return {
            tensor.name: part.reshape(tensor.shape) for tensor, part in zip(self.layout.tokenized, parts, strict=True)
        }

    def order(self, point_P: np.ndarray, target_P: np.ndarray) -> np.ndarray | slice:
        """Indices that bring the units of `point_P`, and of what it was trained with, in the order of the target's."""
        if not self.groups:
            return slice(None)
        orders = match(self.tensors(point_P), self.tensors(target_P), self.groups)
        if all(np.array_equal(order, np.arange(len(order))) for order in orders):
            return slice(None)
        moved = permute(self.tensors(np.arange(len(point_P))), self.groups, orders)
        return np.concatenate([moved[tensor.name].ravel() for tensor in self.layout.tokenized])


@dataclass(frozen=True)
class ZooPoints:
    """The checkpoints that RPG learned from, as points [N, P]; `seeds` and `codes` tell their N training runs apart."""

    space: Space
    points_NP: np.ndarray
    seeds: np.ndarray
    codes: np.ndarray

    def distances(self, point_P: np.ndarray) -> np.ndarray:
        """[N] root mean square distances to the checkpoints."""
        return np.sqrt(np.mean(np.square(self.points_NP - point_P), axis=1))

    def aligned(self, point_P: np.ndarray, but: int | None = None) -> np.ndarray:
        """[N, P]: each seed's checkpoints with their units in the order of the network's at `point_P`.

        The order is that of the seed's checkpoint that is nearest as it is, which is not to be number `but`.
        """
        distances, moved_NP = self.distances(point_P), self.points_NP.copy()
        for seed in np.unique(self.seeds):
            of_seed = np.flatnonzero(self.seeds == seed)
            candidates = of_seed[of_seed != but]
            if len(candidates):
                nearest = candidates[distances[candidates].argmin()]
                order = self.space.order(self.points_NP[nearest], point_P)
                if not isinstance(order, slice):
                    moved_NP[of_seed] = self.points_NP[of_seed][:, order]
        return moved_NP

    def measure(self, point_P: np.ndarray, but: int | None = None, align: bool = True) -> dict[str, float | int]:
        """How far a network is from the checkpoints; `but` is its own index if it is one of them.

        `distance` to the `nearest` (an index). With `align` also `aligned`, the same after permutation of units, and
        `residual`, to the nearest affine combination of checkpoints. A checkpoint is compared with the others, and has
        `distance_across` and `aligned_across`, to those of other training runs; its residual is from these. What there
        are no checkpoints for is left out.
        """
        distances = self.distances(point_P)
        others, foreign = np.full(len(distances), True), np.full(len(distances), True)
        if but is not None:
            others[but] = False
            foreign = (self.seeds != self.seeds[but]) | (self.codes != self.codes[but])
        found: dict[str, float | int] = {}

        def note(name: str, values: np.ndarray, chosen: np.ndarray) -> None:
            if chosen.any():
                found[name] = float(values[chosen].min())

        if others.any():
            found["nearest"] = int(np.where(others, distances, np.inf).argmin())
        note("distance", distances, others)
        if but is not None:
            note("distance_across", distances, foreign)
        if align:
            moved_NP = self.aligned(point_P, but)
            again = np.minimum(distances, np.sqrt(np.mean(np.square(moved_NP - point_P), axis=1)))
            note("aligned", again, others)
            if but is not None:
                note("aligned_across", again, foreign)
            if foreign.any():
                found["residual"] = residual(point_P, moved_NP[foreign])
        return found


def residual(point_P: np.ndarray, others_NP: np.ndarray) -> float:
    """Root mean square distance of a point from the affine hull of others."""
    centre_P = others_NP.mean(0, dtype=np.float64)
    spread_NP, offset_P = others_NP - centre_P, point_P - centre_P
    # Through the N × N products, since P is much larger than N.
    weights_N = np.linalg.pinv(spread_NP @ spread_NP.T, rcond=1e-8, hermitian=True) @ (spread_NP @ offset_P)
    return float(np.sqrt(np.mean(np.square(offset_P - weights_N @ spread_NP))))
