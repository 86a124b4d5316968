"""A backbone of pre-norm residual blocks around one mixer, with the condition in each block."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

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
    descriptors: Tensor
    places: Tensor | None

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
        fixed = [position_embedding(axes[kind], width) for kind in params.positions if kind in axes]
        self.register_buffer("positions", sum(fixed, torch.zeros(len(tokens), width)))
        learned = len(tokens) if tokens.learned is None else tokens.learned
        self.tokens = nn.Parameter(torch.randn(learned, width)) if "learned" in params.positions else None
        self.register_buffer("places", tokens.places_L, persistent=False)
        self.described: _DescriptorEmbedding | None = None
        if "described" in params.positions:
            if tokens.descriptors_LF is None:
                raise ValueError("backbone.positions: described needs the descriptors of the tokens")
            self.register_buffer("descriptors", tokens.descriptors_LF, persistent=False)
            self.described = _DescriptorEmbedding(tokens.descriptors_LF.shape[1], width)
        self.conditions = Conditions(conditions, sizes, tokens.head_L, width, normalized=True)
        self.blocks = nn.ModuleList(_ModulatedBlock(params) for _ in range(params.blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the prototypes [B, L, M] for the conditions' values, name → [B, C]."""
        condition_BLM = self.conditions(values)
        positions_LM = self.positions
        if self.tokens is not None:
            positions_LM = positions_LM + (self.tokens if self.places is None else self.tokens[self.places])
        if self.described is not None:
            positions_LM = positions_LM + self.described(self.descriptors)
        hidden_BLM = positions_LM + condition_BLM
        for block in self.blocks:
            hidden_BLM = run(block, hidden_BLM, condition_BLM, again=self.again)
        return self.norm(hidden_BLM)


class _DescriptorEmbedding(nn.Module):
    """Embed descriptors [..., F] by Linear-SiLU-Linear; each vector has mean 0 and standard deviation 1."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, descriptors_F: Tensor) -> Tensor:
        embedded_M = self.second(functional.silu(self.first(descriptors_F.to(self.first.weight.dtype))))
        return functional.layer_norm(embedded_M, embedded_M.shape[-1:])


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
