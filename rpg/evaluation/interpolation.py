"""Baselines without training: noise, means, interpolations and Gaussians of a zoo's checkpoints.

Each network has the permutation state and task code of one of RPG's samples. The baselines mix checkpoints of this
code: all of the same seed (`within`), or one of each seed (`across`), as they are or with their units aligned to the
first checkpoint (`aligned`).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from rpg.evaluation.geometry import ZooPoints
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
                points = [zoo.points_NP[first]]
                for other in others:
                    point_P = zoo.points_NP[other]
                    points.append(point_P[zoo.space.order(point_P, points[0])] if aligned else point_P)
                for method, point_P in _mix(np.stack(points), draw):
                    yield f"{method} {reach}", int(zoo.seeds[first]), code, point_P


def _mix(points_NP: np.ndarray, draw: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the point of each mixture of the N networks at `points_NP`."""
    yield "mean", points_NP[: draw.integers(2, len(points_NP) + 1)].mean(0)
    share = draw.uniform(0.25, 0.75)
    yield "interpolation", (1 - share) * points_NP[0] + share * points_NP[1]
    noise_P = draw.standard_normal(points_NP.shape[1])
    yield "Gaussian", points_NP.mean(0) + points_NP.std(0, ddof=1) * noise_P
