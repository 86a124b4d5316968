import numpy as np
import pytest
import torch
from torch import nn

from rpg.evaluation.alignment import find_groups
from rpg.evaluation.geometry import Space, ZooPoints
from rpg.evaluation.interpolation import mixtures
from rpg.tokenizer.layout import Layout

torch.manual_seed(0)
NETWORK = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).eval()
SPACE = Space(Layout.of(NETWORK.state_dict(), 5), find_groups(NETWORK, torch.randn(4, 3)))


def by_method(*arguments) -> dict[str, list[tuple[int, str | None, np.ndarray]]]:
    made: dict[str, list] = {}
    for method, *network in mixtures(*arguments):
        made.setdefault(method, []).append(tuple(network))
    return made


KINDS = ("mean", "interpolation", "Gaussian")


def make_zoo(seeds: list[int], codes: list[str], space: Space = SPACE) -> ZooPoints:
    points_NP = np.random.default_rng(0).standard_normal((len(seeds), 38)).astype(np.float32)
    return ZooPoints(space, points_NP, np.array(seeds), np.array(codes))


def test_methods_are_those_that_the_zoo_allows() -> None:
    def kinds(zoo: ZooPoints, code: str | None = None) -> set[str]:
        return set(by_method(zoo, [(0, code)], [0.5], 0))

    within = {f"{kind} within" for kind in KINDS}
    across = {f"{kind} across" for kind in KINDS}
    aligned = {f"{kind} across, aligned" for kind in KINDS}
    assert kinds(make_zoo([0, 0, 1, 1], [""] * 4)) == {"noise 0.5"} | within | across | aligned
    assert kinds(make_zoo([0, 0, 1, 1], [""] * 4, Space(SPACE.layout, []))) == {"noise 0.5"} | within | across
    assert kinds(make_zoo([0, 0], [""] * 2)) == {"noise 0.5"} | within
    # With one save of each task a code has one network for each seed, and one that is held out has none.
    tasks = make_zoo([0, 1, 0, 1], ["01", "01", "10", "10"])
    assert kinds(tasks, "01") == {"noise 0.5"} | across | aligned
    assert kinds(tasks, "11") == set()


def test_noise_has_its_level_and_its_checkpoint() -> None:
    zoo = make_zoo([0, 0, 1, 1], [""] * 4)
    made = by_method(zoo, [(0, None), (1, None)] * 200, [0.1, 2.0], 0)
    for level in (0.1, 2.0):
        errors = []
        for state, _, point_P in made[f"noise {level}"]:
            own = zoo.points_NP[zoo.seeds == state]
            errors.append(min(np.mean((point_P - other_P) ** 2) for other_P in own) ** 0.5)
        assert np.mean(errors) == pytest.approx(level, rel=0.1)


def test_means_and_interpolations_are_combinations_of_their_seeds() -> None:
    zoo = make_zoo([0, 0, 0, 1, 1, 1], [""] * 6)
    made = by_method(zoo, [(1, None)] * 50, [], 0)
    for kind, chosen in (("within", zoo.seeds == 1), ("across", zoo.seeds >= 0)):
        for method in ("mean", "interpolation"):
            shares = []
            for _, _, point_P in made[f"{method} {kind}"]:
                found, *_ = np.linalg.lstsq(zoo.points_NP[chosen].T, point_P)
                np.testing.assert_allclose(found @ zoo.points_NP[chosen], point_P, atol=1e-4)
                assert found.sum() == pytest.approx(1, abs=1e-4)
                used = np.flatnonzero(found > 1e-3)
                shares.append(found[used])
                if kind == "across":
                    # One of each seed.
                    assert sorted(zoo.seeds[used]) == [0, 1]
            if method == "mean":
                assert all(np.allclose(share, share[0], atol=1e-3) for share in shares)
            else:
                assert {len(share) for share in shares} == {2}
                assert min(share.min() for share in shares) > 0.24


def test_gaussian_has_mean_and_spread_of_its_checkpoints() -> None:
    zoo = make_zoo([0, 0, 0, 1], [""] * 4)
    made = np.stack([point_P for _, _, point_P in by_method(zoo, [(0, None)] * 3000, [], 0)["Gaussian within"]])
    np.testing.assert_allclose(made.mean(0), zoo.points_NP[:3].mean(0), atol=0.15)
    np.testing.assert_allclose(made.std(0), zoo.points_NP[:3].std(0, ddof=1), rtol=0.1)


def test_aligned_mean_of_permuted_copies_is_the_network() -> None:
    zoo = make_zoo([0], [""])
    moved_P = zoo.points_NP[0].copy()
    order = SPACE.order(zoo.points_NP[0], np.random.default_rng(5).standard_normal(38))
    both = ZooPoints(SPACE, np.stack([moved_P, moved_P[order]]), np.array([0, 1]), np.array(["", ""]))
    made = by_method(both, [(0, None)], [], 0)
    assert any(np.allclose(made["mean across, aligned"][0][2], point_P) for point_P in both.points_NP)
    assert not any(np.allclose(made["mean across"][0][2], point_P) for point_P in both.points_NP)


def test_same_seed_same_networks() -> None:
    zoo = make_zoo([0, 0, 1, 1], [""] * 4)
    one, again, other = (by_method(zoo, [(0, None), (1, None)], [0.5], seed) for seed in (0, 0, 1))
    for method, networks in one.items():
        for (*_, point_P), (*_, same_P) in zip(networks, again[method], strict=True):
            assert np.array_equal(point_P, same_P)
    assert not np.array_equal(one["noise 0.5"][0][2], other["noise 0.5"][0][2])
