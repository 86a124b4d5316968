"""Distances between networks of one architecture, which are points in the space of their normalized weights.

All distances are root mean squares over the weights. Each tensor is normalized, so the distance 1 is the standard
deviation of a tensor's weights. N checkpoints, P weights.

A *point* holds normalized weights as the tokens do, and mixtures of networks are mixtures of points. Many points belong
to one function: units may be permuted and rescaled, low-rank pairs multiplied by a matrix. So distances are measured
between *canonical points*: the network's weights in canonical scale and with balanced pairs, normalized by the
statistics of the zoo's canonical weights. Permutations and rotations of pairs are then matched.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solve
from torch import Tensor

from rpg.evaluation.alignment import PermutationGroup, match, permute
from rpg.evaluation.scaling import Scaling
from rpg.tokenizer.canonical import balanced, pairs
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize

# A standard deviation below this share of the mean is a rounding error: the canonical scale fixes the tensor.
FIXED = 1e-5


# The share of the total variance that is added to each direction.
RIDGE = 1e-11
# More than the rounding error of inner products, as a share of their trace.
ROUNDING = 1e-14
# Number of weights of all checkpoints that are in memory at once to be multiplied, in float64.
BLOCK = 2**25


class Pair(NamedTuple):
    """The places of a low-rank pair in a point: A [r, I] and B [O, r]."""

    first: slice
    second: slice
    rank: int


class Space:
    """Convert networks to points and back: a point has P normalized weights in the order of the layout's tokens."""

    def __init__(
        self,
        layout: Layout,
        groups: Sequence[PermutationGroup],
        scaling: Scaling | None = None,
        stats: Stats | None = None,
    ) -> None:
        """Keep the tensors of `groups` and `scaling` that the layout tokenizes.

        `groups` are the units that may be permuted, `scaling` those that may be rescaled. `stats` denormalizes points;
        without it there is no canonical form beyond permutations.
        """
        self.layout, self.stats = layout, stats
        self.padding_LD = layout.padding()
        names = {tensor.name for tensor in layout.tokenized}
        restricted = [replace(group, axes=[axis for axis in group.axes if axis.name in names]) for group in groups]
        self.groups = [group for group in restricted if group.axes]
        self.scaling = (scaling or Scaling()).restricted(names) if stats else Scaling()
        sizes = [math.prod(tensor.shape) for tensor in layout.tokenized]
        ends = np.cumsum(sizes)
        self.places = {
            tensor.name: slice(int(end) - size, int(end))
            for tensor, size, end in zip(layout.tokenized, sizes, ends, strict=True)
        }
        self.pairs: list[Pair] = []
        if stats:
            shapes = {tensor.name: tensor.shape for tensor in layout.tokenized}
            self.pairs = [
                Pair(self.places[first], self.places[second], shapes[first][0])
                for first, second in pairs(shapes)
                # Block-diagonal factors (peft's `use_bdlora`) have names of a pair and no common rank.
                if shapes[first][0] == shapes[second][1]
            ]

    @property
    def has_forms(self) -> bool:
        """Whether canonical points differ from points."""
        return bool(self.scaling or self.pairs)

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
        return {
            tensor.name: point_P[self.places[tensor.name]].reshape(tensor.shape) for tensor in self.layout.tokenized
        }

    def canonical(self, point_P: np.ndarray) -> np.ndarray:
        """Return the weights [P] of the network at a point, in canonical scale and with balanced low-rank pairs.

        They are not normalized, except running variances without a BatchNorm that the walk has found. A space without
        such symmetries returns the point.
        """
        if not self.stats or not self.has_forms:
            return point_P
        layout = Layout(self.layout.width, self.layout.tokenized)
        weights = detokenize(self.tokens(point_P), layout, self.stats, {})
        canonical_P = np.concatenate([weights[name].numpy().ravel() for name in self.places]).astype(np.float32)
        self.scaling.canonical(self.tensors(canonical_P))
        for first, second, rank in self.pairs:
            pair = (canonical_P[first].reshape(rank, -1), canonical_P[second].reshape(-1, rank))
            factors = balanced(*(torch.from_numpy(factor).double() for factor in pair))
            canonical_P[first], canonical_P[second] = (factor.numpy().ravel() for factor in factors)
        folded = {norm.variance for norm in self.scaling.norms}
        for tensor in self.layout.tokenized:
            if tensor.is_variance and tensor.name not in folded:
                canonical_P[self.places[tensor.name]] = point_P[self.places[tensor.name]]
        return canonical_P

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
    """The checkpoints that RPG learned from, as points [N, P]; `seeds` and `codes` [N] name their training runs.

    `scratch` is a folder for their canonical points, which stay in memory if it is None.
    """

    space: Space
    points_NP: np.ndarray
    seeds: np.ndarray
    codes: np.ndarray
    scratch: Path | None = None

    @cached_property
    def _canonical(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the checkpoints' canonical points [N, P], and each weight's mean [P] and standard deviation [P].

        Mean and deviation are those of the weight's tensor, averaged over the checkpoints as in `Stats`.
        """
        space = self.space
        mean_P, std_P = np.zeros_like(self.points_NP[0]), np.ones_like(self.points_NP[0])
        if not space.has_forms:
            return self.points_NP, mean_P, std_P
        weights_NP = mapped((space.canonical(point_P) for point_P in self.points_NP), self.scratch)
        for place in space.places.values():
            values = weights_NP[:, place].astype(np.float64)
            mean, std = values.mean(), values.std(axis=1, ddof=1).mean()
            mean_P[place], std_P[place] = mean, std if std > FIXED * abs(mean) else 1
        return mapped(((weights_P - mean_P) / std_P for weights_P in weights_NP), self.scratch), mean_P, std_P

    @cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inner products [N, N] of the canonical points and of the points."""
        points = PermutedPoints.of(self.points_NP)
        if not self.space.has_forms:
            inner_NN = inner_products(points)
            return inner_NN, inner_NN
        return inner_products(PermutedPoints.of(self._canonical[0])), inner_products(points)

    def products(
        self, permuted: "PermutedPoints", orders: Mapping[int, np.ndarray | slice], before_NN: np.ndarray
    ) -> np.ndarray:
        """Return the inner products [N, N] of permuted points from those before the permutation.

        Only products between seeds change, because a seed has a common order.
        """
        seeds = [np.flatnonzero(self.seeds == seed) for seed in np.unique(self.seeds)]
        stay = [isinstance(orders.get(seed, slice(None)), slice) for seed in np.unique(self.seeds)]
        moved = [pair for pair in combinations(range(len(seeds)), 2) if not (stay[pair[0]] and stay[pair[1]])]
        inner_NN = before_NN.copy()
        for one, other in moved:
            inner_NN[np.ix_(seeds[one], seeds[other])] = 0
        for values_NB in permuted.blocks() if moved else ():
            exact = [values_NB[of_seed].astype(np.float64) for of_seed in seeds]
            for one, other in moved:
                inner_NN[np.ix_(seeds[one], seeds[other])] += exact[one] @ exact[other].T
        for one, other in moved:
            inner_NN[np.ix_(seeds[other], seeds[one])] = inner_NN[np.ix_(seeds[one], seeds[other])].T
        return inner_NN

    def canonical_of(self, index: int) -> np.ndarray:
        """Return the canonical point [P] of a checkpoint."""
        return self._canonical[0][index]

    def canonical(self, point_P: np.ndarray) -> np.ndarray:
        """Return the canonical point [P] of a network."""
        _, mean_P, std_P = self._canonical
        return (self.space.canonical(point_P) - mean_P) / std_P

    def distances(self, point_P: np.ndarray) -> np.ndarray:
        """Return the root mean square distances [N] of a network to the checkpoints, without permutations."""
        canonical_P = self.canonical(point_P)
        return root_mean_squares(PermutedPoints.of(self.facing(canonical_P)), canonical_P)

    def separation(self, one_P: np.ndarray, other_P: np.ndarray) -> float:
        """Return the distance between two canonical points [P], with low-rank pairs rotated and no units permuted."""
        return rms(self.rotated(one_P[None], other_P) - other_P)

    def facing(self, canonical_P: np.ndarray) -> np.ndarray:
        """Return the checkpoints' canonical points [N, P], with low-rank pairs rotated to be nearest to a network's."""
        return self.rotated(self._canonical[0], canonical_P)

    def rotated(self, zoo_NP: np.ndarray, canonical_P: np.ndarray) -> np.ndarray:
        """Return canonical points [N, P] with each low-rank pair rotated to be nearest to the pair of `canonical_P`.

        The rotation is the solution of the orthogonal Procrustes problem (rpg.tokenizer.canonical), with both factors
        in units of their tensors' standard deviations.
        """
        _, mean_P, std_P = self._canonical
        if not self.space.pairs:
            return zoo_NP
        facing_NP, count = zoo_NP.copy(), len(zoo_NP)
        shift_P = mean_P / std_P
        for first, second, rank in self.space.pairs:
            a_NrI = (zoo_NP[:, first] + shift_P[first]).reshape(count, rank, -1)
            b_NOr = (zoo_NP[:, second] + shift_P[second]).reshape(count, -1, rank)
            to_a_rI = (canonical_P[first] + shift_P[first]).reshape(rank, -1)
            to_b_Or = (canonical_P[second] + shift_P[second]).reshape(-1, rank)
            u, _, vt = np.linalg.svd(b_NOr.swapaxes(1, 2) @ to_b_Or + a_NrI @ to_a_rI.T)
            rotation_Nrr = u @ vt
            facing_NP[:, first] = (rotation_Nrr.swapaxes(1, 2) @ a_NrI).reshape(count, -1) - shift_P[first]
            facing_NP[:, second] = (b_NOr @ rotation_Nrr).reshape(count, -1) - shift_P[second]
        return facing_NP

    def orders(
        self, zoo_NP: np.ndarray, point_P: np.ndarray, own_index: int | None = None
    ) -> dict[int, np.ndarray | slice]:
        """Return for each seed the indices [P] that permute the units of its checkpoints to match a network.

        `zoo_NP` and `point_P` are canonical points of the checkpoints and the network. The seed's checkpoint nearest to
        the point, other than `own_index`, is matched and sets the order for the seed.
        """
        distances, orders = root_mean_squares(PermutedPoints.of(zoo_NP), point_P), {}
        for seed in np.unique(self.seeds):
            candidates = np.flatnonzero((self.seeds == seed) & (np.arange(len(self.seeds)) != own_index))
            if len(candidates):
                nearest = candidates[distances[candidates].argmin()]
                orders[seed] = self.space.order(zoo_NP[nearest], point_P)
        return orders

    def permuted(self, points_NP: np.ndarray, orders: Mapping[int, np.ndarray | slice]) -> "PermutedPoints":
        """Return points of the checkpoints [N, P] with each seed's units in the seed's order."""
        return PermutedPoints(
            points_NP, [orders.get(seed, slice(None)) for seed in self.seeds], np.arange(len(self.seeds))
        )

    def measure(self, point_P: np.ndarray, own_index: int | None = None, align: bool = True) -> dict[str, float | int]:
        """Measure the distances of a network from the checkpoints; `own_index` is its index if it is a checkpoint.

        All distances are between canonical points. `nearest` is the index of the nearest checkpoint, `distance` the
        distance to it. With `align`, `aligned` is the distance after permutation of units, and `residual` the distance
        to the nearest affine combination of checkpoints. A checkpoint is compared with all others. Its
        `distance_across` and `aligned_across` are distances to checkpoints of other training runs, and its residual is
        from these checkpoints. A measure without checkpoints to compare with is absent.
        """
        canonical_P = self.canonical(point_P)
        zoo_NP = self.facing(canonical_P)
        distances = root_mean_squares(PermutedPoints.of(zoo_NP), canonical_P)
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
            orders = self.orders(zoo_NP, canonical_P, own_index)
            aligned = self.permuted(zoo_NP, orders)
            # A match is a heuristic, so the distance without it may be smaller.
            aligned_distances = np.minimum(distances, root_mean_squares(aligned, canonical_P))
            record_minimum("aligned", aligned_distances, others)
            if own_index is not None:
                record_minimum("aligned_across", aligned_distances, other_runs)
            if other_runs.any():
                rivals = aligned.chosen(other_runs)
                inner = self.products(aligned, orders, self._products[0])[np.ix_(other_runs, other_runs)]
                nearest_N = combination(canonical_P, rivals, None if self.space.pairs else inner)
                measures["residual"] = rms(canonical_P - rivals.mixed(nearest_N))
                if self.space.has_forms:
                    raw = self.permuted(self.points_NP, orders)
                    inner = self.products(raw, orders, self._products[1])[np.ix_(other_runs, other_runs)]
                    raw = raw.chosen(other_runs)
                    mixed = self.mixed(canonical_P, raw, (nearest_N, combination(point_P, raw, inner)))
                    measures["residual"] = min(measures["residual"], mixed)
        return measures

    def mixed(self, canonical_P: np.ndarray, raw: "PermutedPoints", shares: Sequence[np.ndarray]) -> float:
        """Return the distance of a network to the nearest of some affine combinations of checkpoints as they are.

        Weights are mixed before they get their canonical form, so a mixture of points `raw` is no mixture of
        canonical points. `shares` holds the combinations to try, [N] each.
        """
        mixtures = [self.canonical(raw.mixed(share_N).astype(np.float32)) for share_N in shares]
        return min(self.separation(mixture_P, canonical_P) for mixture_P in mixtures)


@dataclass(frozen=True)
class PermutedPoints:
    """Points [N, P] that are permuted when they are read, a row or a block of columns at a time.

    The points are rows `chosen_N` of `points_NP`, which may be a memory-mapped file: no copy of all points is in
    memory. Each row has the indices of its weights' order, or `slice(None)`.
    """

    points_NP: np.ndarray
    orders: Sequence[np.ndarray | slice]
    chosen_N: np.ndarray

    @classmethod
    def of(cls, points_NP: np.ndarray) -> "PermutedPoints":
        """Return points in their own order."""
        return cls(points_NP, [slice(None)] * len(points_NP), np.arange(len(points_NP)))

    def __len__(self) -> int:
        return len(self.chosen_N)

    def chosen(self, rows_N: np.ndarray) -> "PermutedPoints":
        """Return the points of some rows, `rows_N` [N] bool."""
        return replace(self, chosen_N=self.chosen_N[rows_N])

    def rows(self) -> Iterator[np.ndarray]:
        """Yield each point [P]."""
        for index in self.chosen_N:
            yield self.points_NP[index][self.orders[index]]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks of columns [N, B] of all points."""
        for place in self._places():
            yield np.stack([self._part(index, place) for index in self.chosen_N])

    def _places(self) -> Iterator[slice]:
        size = max(1, BLOCK // len(self))
        for start in range(0, self.points_NP.shape[1], size):
            yield slice(start, start + size)

    def _part(self, index: int, place: slice) -> np.ndarray:
        order = self.orders[index]
        return self.points_NP[index][place if isinstance(order, slice) else order[place]]

    def by_column(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the results [P] of a function that maps columns [N, B] to [B]."""
        return np.concatenate([function(values_NB) for values_NB in self.blocks()])

    def mixed(self, share_N: np.ndarray) -> np.ndarray:
        """Return the sum [P] of the points times their shares."""
        return self.by_column(lambda values_NB: share_N @ values_NB)

    def along(self, point_P: np.ndarray) -> np.ndarray:
        """Return the inner products [N] of the points with the difference of `point_P` from their mean."""
        along_N = np.zeros(len(self))
        for place, values_NB in zip(self._places(), self.blocks(), strict=True):
            along_N += values_NB @ (point_P[place] - values_NB.mean(0, dtype=np.float64))
        return along_N


def mapped(rows: Iterable[np.ndarray], folder: Path | None) -> np.ndarray:
    """Return the rows [N, P] as a memory-mapped file without a name in `folder`, or in memory without a folder.

    On a full disk the function raises OSError. Changes of the array stay in memory.
    """
    if folder is None:
        return np.stack(list(rows))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for row_P in rows:
            file.write(np.ascontiguousarray(row_P).data)
        file.flush()
        return np.asarray(np.memmap(file, row_P.dtype, "c")).reshape(-1, len(row_P))


def rms(differences: np.ndarray) -> float:
    """Return the root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(differences))))


def root_mean_squares(points: PermutedPoints, point_P: np.ndarray) -> np.ndarray:
    """Return the root mean square difference [N] of each of the points from `point_P`."""
    return np.array([np.sqrt(np.mean(np.square(row_P - point_P))) for row_P in points.rows()])


def combination(point_P: np.ndarray, others: PermutedPoints, inner_NN: np.ndarray | None = None) -> np.ndarray:
    """Return the shares [N], of sum 1, of the affine combination of other points [N, P] that is nearest to a point.

    `inner_NN` holds the inner products of the other points, from any origin, if they are known.
    """
    # Solve by the N × N matrix of inner products, because P is much larger than N. The matrix is singular, because the
    # spread's sum is 0; the ridge makes it regular.
    if inner_NN is None:
        inner_NN = inner_products(others)
    regular_NN = inner_NN - inner_NN.mean(0) - inner_NN.mean(1, keepdims=True) + inner_NN.mean()
    regular_NN.flat[:: len(regular_NN) + 1] += RIDGE * regular_NN.trace() + ROUNDING * inner_NN.trace() + 1e-30
    along_N = others.along(point_P)
    try:
        weights_N = solve(regular_NN, along_N - along_N.mean(), assume_a="pos", check_finite=False)
    except np.linalg.LinAlgError:
        # The ridge is enough for all but points that are equal up to rounding.
        weights_N = np.linalg.pinv(regular_NN, rcond=1e-8, hermitian=True) @ (along_N - along_N.mean())
    return weights_N + (1 - weights_N.sum()) / len(others)


def inner_products(points: PermutedPoints) -> np.ndarray:
    """Return the inner products [N, N] of points [N, P]."""
    inner_NN = np.zeros((len(points), len(points)))
    for values_NB in points.blocks():
        exact_NB = values_NB.astype(np.float64)
        inner_NN += exact_NB @ exact_NB.T
    return inner_NN


def residual(point_P: np.ndarray, others_NP: np.ndarray) -> float:
    """Return the root mean square distance of a point from the affine hull of other points [N, P]."""
    others = PermutedPoints.of(others_NP)
    return rms(point_P - others.mixed(combination(point_P, others)))
