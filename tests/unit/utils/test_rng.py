import torch

from rpg.utils.rng import derive, generator


def test_seeds_are_fixed_for_ever() -> None:
    """Published artifacts depend on these numbers."""
    assert derive(0, "train", 1) == 4127937557517989917
    assert torch.randint(1000, (3,), generator=generator(7, "sample", 0)).tolist() == [765, 622, 367]


def test_seeds_differ_by_every_part() -> None:
    seeds = {derive(seed, layer, index) for seed in range(10) for layer in ("zoo", "train") for index in range(10)}
    assert len(seeds) == 200
    assert derive(1, 23) != derive(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)
