"""Recurrent models: from positions and conditions to one prototype per token. Weights are never fed in."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from rpg.model.conditions import Conditions, position_embedding
from rpg.model.mamba2 import Mamba2


class PaperRecurrent(nn.Module):
    """The published recurrent model: two Mamba2 blocks in sequence, without residual or norm between (section 2.2).

    Conditions are added to every position's embedding. The last block gives prototypes of width D.
    """

    positions: Tensor

    def __init__(
        self,
        positions_L2: Tensor,
        states: int,
        *,
        width: int,
        prototype_width: int,
        state_width: int,
        head_width: int,
        expand: int,
        task_width: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("positions", position_embedding(positions_L2, width))
        self.conditions = Conditions(states, task_width, width)
        # Published: all states start equal.
        nn.init.constant_(self.conditions.state.weight, 1 / width)
        self.blocks = nn.Sequential(
            *(
                Mamba2(after, state_width=state_width, head_width=head_width, expand=expand, input_width=before)
                for before, after in pairwise([width, width, prototype_width])
            )
        )

    def forward(self, states_B: Tensor, task_BC: Tensor | None = None) -> Tensor:
        """Prototypes [B, L, D]."""
        return self.blocks(self.positions + self.conditions(states_B, task_BC))


class ResidualRecurrent(nn.Module):
    """Pre-norm residual Mamba2 blocks; the condition also scales and shifts the input of each block."""

    positions: Tensor

    def __init__(
        self,
        positions_L2: Tensor,
        states: int,
        *,
        width: int,
        blocks: int,
        state_width: int,
        head_width: int,
        expand: int,
        task_width: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("positions", position_embedding(positions_L2, width))
        self.tokens = nn.Parameter(torch.randn(len(positions_L2), width))
        self.conditions = Conditions(states, task_width, width)
        self.blocks = nn.ModuleList(
            _ModulatedBlock(width, state_width=state_width, head_width=head_width, expand=expand) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, states_B: Tensor, task_BC: Tensor | None = None) -> Tensor:
        """Prototypes [B, L, M]."""
        condition_B1M = self.conditions(states_B, task_BC)
        hidden_BLM = self.positions + self.tokens + condition_B1M
        for block in self.blocks:
            hidden_BLM = block(hidden_BLM, condition_B1M)
        return self.norm(hidden_BLM)


class _ModulatedBlock(nn.Module):
    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.mamba = Mamba2(width, state_width=state_width, head_width=head_width, expand=expand)

    def forward(self, hidden_BLM: Tensor, condition_B1M: Tensor) -> Tensor:
        shift, scale = self.modulation(condition_B1M).chunk(2, dim=-1)
        return hidden_BLM + self.mamba(self.norm(hidden_BLM) * (1 + scale) + shift)
