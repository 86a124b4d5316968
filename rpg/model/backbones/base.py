"""The interface of backbones."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rpg.model.conditions import Conditions


@dataclass(frozen=True)
class TokenPositions:
    """What a backbone knows of the L tokens: positions [L, 2] int64 and head [L] bool."""

    positions_L2: Tensor
    head_L: Tensor

    def __len__(self) -> int:
        return len(self.positions_L2)


class Backbone(nn.Module):
    """From the tokens' positions and the conditions to one prototype per token. Weights are never fed in.

    The constructor takes the backbone's block of params.yaml, the positions, the blocks of the conditions, the number
    of values of each condition by name, and the token width D. It sets `prototype_width`, the width W of its
    prototypes. If `again` is set, the activations of `blocks` are computed again in the backward pass.
    """

    again = False
    prototype_width: int
    conditions: Conditions
    blocks: nn.Sequential | nn.ModuleList

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Prototypes [B, L, W] from the conditions' values, name → [B, C]."""
        raise NotImplementedError
