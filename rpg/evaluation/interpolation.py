"""Baselines without training: noise, means, interpolations and Gaussians of a zoo's checkpoints.

Each network has the permutation state and task code of one of RPG's samples. The baselines mix checkpoints of this
code: all of the same seed (`within`), or one of each seed (`across`), as they are or with their units aligned to the
first checkpoint (`aligned`).
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from rpg.evaluation.geometry import PermutedPoints, ZooPoints
from rpg.utils.rng import derive


def mixtures(
    zoo: ZooPoints, requests: Sequence[tuple[int, str | None]], noise: Sequence[float], seed: int
) -> Iterator[tuple[str, int, str | None, np.ndarray]]:
    """Yield method, permutation state, task code and point [P] of one network per request (state, code) and method.

    `noise` lists noise levels in standard deviations of each tensor's weights. A method without enough checkpoints in
    the zoo is skipped.
    """
    for k, (state, code) in enumerate(requests):
        of_code = np.flatnonzero(zoo.codes == (code or ""))
        within = of_code[zoo.seeds[of_code] == state]
        draw = np.random.default_rng(derive(seed, "mixing", k))
        across = np.array([draw.choice(of_code[zoo.seeds[of_code] == one]) for one in np.unique(zoo.seeds[of_code])])
        if len(within):
            for level in noise:
                point_P = zoo.points_NP[draw.choice(within)]
                yield f"noise {level}", state, code, point_P + level * draw.standard_normal(len(point_P))
        for reach, chosen, aligned in (
            ("within", within, False),
            ("across", across, False),
            ("across, aligned", across, True),
        ):
            if len(chosen) > 1 and not (aligned and not zoo.space.groups):
                first, *others = draw.permutation(chosen)
                orders: list[np.ndarray | slice] = [slice(None)] * len(zoo.points_NP)
                for other in others if aligned else ():
                    orders[other] = zoo.space.order(zoo.points_NP[other], zoo.points_NP[first])
                points = PermutedPoints(zoo.points_NP, orders, np.array([first, *others]))
                for method, point_P in _mix(points, draw):
                    yield f"{method} {reach}", int(zoo.seeds[first]), code, point_P


def _mix(points: PermutedPoints, draw: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the point of each mixture of the N networks at `points`."""
    count = draw.integers(2, len(points) + 1)
    yield "mean", points.by_column(lambda values_NB: values_NB[:count].mean(0))
    share = draw.uniform(0.25, 0.75)
    first_P, second_P = islice(points.rows(), 2)
    yield "interpolation", (1 - share) * first_P + share * second_P
    noise_P = draw.standard_normal(len(first_P))
    mean_P, std_P = (points.by_column(of) for of in (lambda v_NB: v_NB.mean(0), lambda v_NB: v_NB.std(0, ddof=1)))
    yield "Gaussian", mean_P + std_P * noise_P
