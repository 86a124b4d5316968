"""Recurrent models: from positions and conditions to one prototype per token. Weights are never fed in."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rpg.model.conditions import Conditions, position_embedding
from rpg.model.mamba2 import Mamba2
from rpg.params import Condition


class PaperRecurrent(nn.Module):
    """The published recurrent model: two Mamba2 blocks in sequence, without residual or norm between (section 2.2).

    Conditions are added to every position's embedding. The last block gives prototypes of width D.
    """

    positions: Tensor

    def __init__(
        self,
        positions_L2: Tensor,
        conditions: Sequence[Condition],
        sizes: Mapping[str, int],
        *,
        width: int,
        prototype_width: int,
        state_width: int,
        head_width: int,
        expand: int,
    ) -> None:
        super().__init__()
        self.register_buffer("positions", position_embedding(positions_L2, width))
        self.conditions = Conditions(conditions, sizes, len(positions_L2), width)
        for module in self.conditions.modules():
            if isinstance(module, nn.Embedding):
                # Published: all states start equal.
                nn.init.constant_(module.weight, 1 / width)
        self.blocks = nn.Sequential(
            *(
                Mamba2(after, state_width=state_width, head_width=head_width, expand=expand, input_width=before)
                for before, after in pairwise([width, width, prototype_width])
            )
        )

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Prototypes [B, L, D] from the conditions' values, name → [B, C]."""
        return self.blocks(self.positions + self.conditions(values))


class ResidualRecurrent(nn.Module):
    """Pre-norm residual Mamba2 blocks; the condition also scales and shifts the input of each block."""

    positions: Tensor

    def __init__(
        self,
        positions_L2: Tensor,
        conditions: Sequence[Condition],
        sizes: Mapping[str, int],
        *,
        width: int,
        blocks: int,
        state_width: int,
        head_width: int,
        expand: int,
    ) -> None:
        super().__init__()
        self.register_buffer("positions", position_embedding(positions_L2, width))
        self.tokens = nn.Parameter(torch.randn(len(positions_L2), width))
        self.conditions = Conditions(conditions, sizes, len(positions_L2), width, normalised=True)
        self.blocks = nn.ModuleList(
            _ModulatedBlock(width, state_width=state_width, head_width=head_width, expand=expand) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Prototypes [B, L, M] from the conditions' values, name → [B, C]."""
        condition_BLM = self.conditions(values)
        hidden_BLM = self.positions + self.tokens + condition_BLM
        for block in self.blocks:
            hidden_BLM = block(hidden_BLM, condition_BLM)
        return self.norm(hidden_BLM)


class _ModulatedBlock(nn.Module):
    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.mamba = Mamba2(width, state_width=state_width, head_width=head_width, expand=expand)

    def forward(self, hidden_BLM: Tensor, condition_BLM: Tensor) -> Tensor:
        shift, scale = self.modulation(condition_BLM).chunk(2, dim=-1)
        return hidden_BLM + self.mamba(self.norm(hidden_BLM) * (1 + scale) + shift)
