"""What tells the recurrent model where a token stands and which network is wanted."""

import torch
from torch import Tensor, nn


def position_embedding(positions_L2: Tensor, width: int) -> Tensor:
    """Fixed 2-D position embedding [L, M], M = `width` divisible by 4 (RPG section 2.2).

    The first half of the channels encodes the token's index inside its tensor, the second half the tensor's index;
    each half interleaves sin (even channels) and cos (odd), with frequencies 10000^(-2i / (M/2)).
    """
    if width % 4:
        raise ValueError(f"the width {width} of the position embedding must be divisible by 4")
    half = width // 2
    frequencies = 10000.0 ** (-2 * torch.arange(half // 2, dtype=torch.float64) / half)
    angles_L2F = positions_L2.double().unsqueeze(-1) * frequencies
    return torch.stack([angles_L2F.sin(), angles_L2F.cos()], dim=-1).flatten(1).float()


def time_embedding(t: Tensor, width: int = 256) -> Tensor:
    """[..., width] sinusoids of the diffusion times `t`: cosines, then sines, frequencies 10000^(-k / (width/2))."""
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.unsqueeze(-1).float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Conditions(nn.Module):
    """What the caller asks for, as one vector that is added to every position: the permutation state, and a task code.

    `task_width` 0 means that there is no task code; otherwise it is [B, C] with C = `task_width`.
    """

    def __init__(self, states: int, task_width: int, width: int) -> None:
        super().__init__()
        self.state = nn.Embedding(states, width)
        self.task = nn.Linear(task_width, width) if task_width else None

    def forward(self, states_B: Tensor, task_BC: Tensor | None) -> Tensor:
        """[B, 1, M]; ValueError if a task code is given to a model without one, or the other way round."""
        if (self.task is None) != (task_BC is None):
            raise ValueError("a task code is needed exactly where the model was trained with one")
        condition_BM = self.state(states_B)
        if self.task is not None:
            condition_BM = condition_BM + self.task(task_BC)
        return condition_BM.unsqueeze(1)
