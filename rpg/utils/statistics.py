"""Standard deviations to divide by."""

import torch
from torch import Tensor

# A deviation below this share of the mean is a rounding error: the numbers are constant.
CONSTANT = 1e-9


def divisor(std: Tensor, mean: Tensor) -> Tensor:
    """Return `std`, with 1 in place of the deviations of constant numbers; both arguments have the same shape."""
    return torch.where(std > CONSTANT * mean.abs(), std, 1.0)
