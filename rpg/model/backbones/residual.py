"""A backbone of pre-norm residual blocks around one mixer, with the condition in each block."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rpg.model.backbones.base import Backbone, TokenPositions
from rpg.model.backbones.mixers import MIXERS
from rpg.model.conditions import Conditions
from rpg.model.embeddings import position_embedding
from rpg.model.recomputing import run

if TYPE_CHECKING:
    from rpg.config.model import Condition, ResidualBackboneConfig


class ResidualBackbone(Backbone):
    """Run residual blocks with the mixer named by `kind`. The condition also scales and shifts each block's input.

    The prototypes have the backbone's width M.
    """

    positions: Tensor

    def __init__(
        self,
        params: "ResidualBackboneConfig",
        tokens: TokenPositions,
        conditions: "Sequence[Condition]",
        sizes: Mapping[str, int],
        token_width: int,
    ) -> None:
        super().__init__()
        width = self.prototype_width = params.width
        axes = {"1d": torch.arange(len(tokens)).unsqueeze(1), "2d": tokens.positions_L2}
        fixed = [position_embedding(axes[kind], width) for kind in params.positions if kind != "learned"]
        self.register_buffer("positions", sum(fixed, torch.zeros(len(tokens), width)))
        self.tokens = nn.Parameter(torch.randn(len(tokens), width)) if "learned" in params.positions else None
        self.conditions = Conditions(conditions, sizes, tokens.head_L, width, normalized=True)
        self.blocks = nn.ModuleList(_ModulatedBlock(params) for _ in range(params.blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the prototypes [B, L, M] for the conditions' values, name → [B, C]."""
        condition_BLM = self.conditions(values)
        hidden_BLM = (
            self.positions + condition_BLM if self.tokens is None else self.positions + self.tokens + condition_BLM
        )
        for block in self.blocks:
            hidden_BLM = run(block, hidden_BLM, condition_BLM, again=self.again)
        return self.norm(hidden_BLM)


class _ModulatedBlock(nn.Module):
    """Compute h + mixer(norm(h) · (1 + scale) + shift); scale and shift are linear in the condition."""

    def __init__(self, params: "ResidualBackboneConfig") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(params.width, elementwise_affine=False)
        self.modulation = nn.Linear(params.width, 2 * params.width)
        self.mixer = MIXERS[params.kind](
            params.width, state_width=params.state_width, head_width=params.head_width, expand=params.expand
        )

    def forward(self, hidden_BLM: Tensor, condition_BLM: Tensor) -> Tensor:
        shift, scale = self.modulation(condition_BLM).chunk(2, dim=-1)
        return hidden_BLM + self.mixer(self.norm(hidden_BLM) * (1 + scale) + shift)
