"""The interface of backbones."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rpg.model.conditions import Conditions


@dataclass(frozen=True)
class TokenPositions:
    """The positions [L, 2] int64 of L tokens, and whether each belongs to the network's head, [L] bool.

    A model of several architectures also needs the tokens' descriptors [L, F], for the position embedding `described`,
    and `places` [L], the index of each token's learned vector among `learned` vectors that all architectures share.
    """

    positions_L2: Tensor
    head_L: Tensor
    descriptors_LF: Tensor | None = None
    places_L: Tensor | None = None
    learned: int | None = None

    def __len__(self) -> int:
        return len(self.positions_L2)


class Backbone(nn.Module):
    """Compute one prototype per token from the tokens' positions and the conditions. The input has no weights.

    The constructor takes the backbone's block of params.yaml, the positions, the blocks of the conditions, the number
    of values of each condition by name, and the token width D. It sets `prototype_width`, the prototypes' width W. If
    `again` is set, the backward pass computes the activations of `blocks` again.
    """

    again = False
    prototype_width: int
    conditions: Conditions
    blocks: nn.Sequential | nn.ModuleList

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the prototypes [B, L, W] for the conditions' values, name → [B, C]."""
        raise NotImplementedError
