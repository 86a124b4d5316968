"""Fixed embeddings of positions and of diffusion times."""

import torch
from torch import Tensor


def position_embedding(positions_LA: Tensor, width: int) -> Tensor:
    """Return the fixed embedding [L, M] of positions [L, A], M = `width` (RPG section 2.2).

    The paper has A = 2: the first half of the channels encodes the token's index inside its tensor, the second half
    encodes the tensor's index. Each part interleaves sin (even channels) and cos (odd channels) with the frequencies
    10000^(-2i / (M/A)). Raises ValueError if M is not divisible by 2 A.
    """
    axes = positions_LA.shape[1]
    if width % (2 * axes):
        raise ValueError(f"the width {width} of the position embedding must be divisible by {2 * axes}")
    part = width // axes
    frequencies = 10000.0 ** (-2 * torch.arange(part // 2, dtype=torch.float64) / part)
    angles_LAF = positions_LA.double().unsqueeze(-1) * frequencies
    return torch.stack([angles_LAF.sin(), angles_LAF.cos()], dim=-1).flatten(1).float()


def time_embedding(t: Tensor, width: int = 256) -> Tensor:
    """Return sinusoids [..., width] of the diffusion times `t`: cosines, then sines.

    The frequencies are 10000^(-k / (width/2)).
    """
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.unsqueeze(-1).float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
