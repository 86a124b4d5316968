"""The published backbone (RPG section 2.2)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rpg.model.backbones.base import Backbone, TokenPositions
from rpg.model.conditions import Conditions
from rpg.model.embeddings import position_embedding
from rpg.model.mamba2 import Mamba2
from rpg.model.recomputing import run

if TYPE_CHECKING:
    from rpg.config.model import Condition, PaperBackboneConfig


class PaperBackbone(Backbone):
    """Run two Mamba2 blocks in sequence, without a residual or a norm between them (section 2.2).

    The conditions are added to every position's embedding. Prototypes have the token width D. By default the last block
    has width D. With `prototype_projection`, both blocks have width M and a Linear projects to D, so the blocks'
    parameters do not depend on D.
    """

    positions: Tensor

    def __init__(
        self,
        params: "PaperBackboneConfig",
        tokens: TokenPositions,
        conditions: "Sequence[Condition]",
        sizes: Mapping[str, int],
        token_width: int,
    ) -> None:
        super().__init__()
        width, projects = params.width, params.prototype_projection
        self.prototype_width = token_width
        self.register_buffer("positions", position_embedding(tokens.positions_L2, width))
        self.conditions = Conditions(conditions, sizes, tokens.head_L, width)
        for module in self.conditions.modules():
            if isinstance(module, nn.Embedding):
                # As published, all states start equal.
                nn.init.constant_(module.weight, 1 / width)
        widths = {"state_width": params.state_width, "head_width": params.head_width, "expand": params.expand}
        self.blocks = nn.Sequential(
            *(
                Mamba2(after, input_width=before, **widths)
                for before, after in pairwise([width, width, width if projects else token_width])
            )
        )
        self.projection = nn.Linear(width, token_width) if projects else nn.Identity()

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the prototypes [B, L, D] for the conditions' values, name → [B, C]."""
        hidden_BLM = self.positions + self.conditions(values)
        for block in self.blocks:
            hidden_BLM = run(block, hidden_BLM, again=self.again)
        return self.projection(hidden_BLM)
