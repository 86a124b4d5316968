import torch

from rpg.utils.statistics import divisor


def test_constant_numbers_are_divided_by_one() -> None:
    """float64 gives 0.1 + 0.2 a deviation of about 1e-17 from 0.3; a zero mean has no rounding error."""
    std = torch.tensor([0.0, 1e-17, 1e-12, 2.0], dtype=torch.float64)
    mean = torch.tensor([5.0, 0.3, 0.0, -4.0], dtype=torch.float64)
    assert divisor(std, mean).tolist() == [1.0, 1.0, 1e-12, 2.0]
