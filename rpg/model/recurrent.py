"""Recurrent models: from positions and conditions to one prototype per token. Weights are never fed in.

Where `again` is set, activations of the blocks are computed again for the backward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rpg.config.model import Condition
from rpg.model.conditions import Conditions, position_embedding
from rpg.model.mamba2 import Mamba2
from rpg.model.recomputing import run


@dataclass(frozen=True)
class TokenPositions:
    """What a recurrent model knows of the L tokens: positions [L, 2] int64 and head [L] bool."""

    positions_L2: Tensor
    head_L: Tensor

    def __len__(self) -> int:
        return len(self.positions_L2)


class PaperRecurrent(nn.Module):
    """The published recurrent model: two Mamba2 blocks in sequence, without residual or norm between (section 2.2).

    Conditions are added to every position's embedding. The last block gives prototypes of width D; with `projection` it
    gives the width M, and a Linear the prototypes, so that what the blocks weigh does not depend on D.
    """

    again = False
    positions: Tensor

    def __init__(
        self,
        tokens: TokenPositions,
        conditions: Sequence[Condition],
        sizes: Mapping[str, int],
        *,
        width: int,
        prototype_width: int,
        state_width: int,
        head_width: int,
        expand: int,
        projection: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("positions", position_embedding(tokens.positions_L2, width))
        self.conditions = Conditions(conditions, sizes, tokens.head_L, width)
        for module in self.conditions.modules():
            if isinstance(module, nn.Embedding):
                # Published: all states start equal.
                nn.init.constant_(module.weight, 1 / width)
        self.blocks = nn.Sequential(
            *(
                Mamba2(after, state_width=state_width, head_width=head_width, expand=expand, input_width=before)
                for before, after in pairwise([width, width, width if projection else prototype_width])
            )
        )
        self.projection = nn.Linear(width, prototype_width) if projection else nn.Identity()

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Prototypes [B, L, D] from the conditions' values, name → [B, C]."""
        hidden_BLM = self.positions + self.conditions(values)
        for block in self.blocks:
            hidden_BLM = run(block, hidden_BLM, again=self.again)
        return self.projection(hidden_BLM)


class ResidualRecurrent(nn.Module):
    """Pre-norm residual blocks of one of `MIXERS`; the condition also scales and shifts the input of each block."""

    again = False
    positions: Tensor

    def __init__(
        self,
        tokens: TokenPositions,
        conditions: Sequence[Condition],
        sizes: Mapping[str, int],
        *,
        recurrent: str,
        positions: Sequence[str],
        width: int,
        blocks: int,
        state_width: int,
        head_width: int,
        expand: int,
    ) -> None:
        super().__init__()
        axes = {"1d": torch.arange(len(tokens)).unsqueeze(1), "2d": tokens.positions_L2}
        fixed = [position_embedding(axes[kind], width) for kind in positions if kind != "learned"]
        self.register_buffer("positions", sum(fixed, torch.zeros(len(tokens), width)))
        self.tokens = nn.Parameter(torch.randn(len(tokens), width)) if "learned" in positions else None
        self.conditions = Conditions(conditions, sizes, tokens.head_L, width, normalised=True)
        widths = {"state_width": state_width, "head_width": head_width, "expand": expand}
        self.blocks = nn.ModuleList(_ModulatedBlock(width, recurrent, **widths) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Prototypes [B, L, M] from the conditions' values, name → [B, C]."""
        condition_BLM = self.conditions(values)
        hidden_BLM = (
            self.positions + condition_BLM if self.tokens is None else self.positions + self.tokens + condition_BLM
        )
        for block in self.blocks:
            hidden_BLM = run(block, hidden_BLM, condition_BLM, again=self.again)
        return self.norm(hidden_BLM)


class _ModulatedBlock(nn.Module):
    def __init__(self, width: int, recurrent: str, **widths: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.mixer = MIXERS[recurrent](width, **widths)

    def forward(self, hidden_BLM: Tensor, condition_BLM: Tensor) -> Tensor:
        shift, scale = self.modulation(condition_BLM).chunk(2, dim=-1)
        return hidden_BLM + self.mixer(self.norm(hidden_BLM) * (1 + scale) + shift)


class _LSTM(nn.Module):
    """One LSTM layer (torch), in the order of the tokens."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(width, width, batch_first=True)

    def forward(self, hidden_BLM: Tensor) -> Tensor:
        return self.layer(hidden_BLM)[0]


class _Transformer(nn.TransformerEncoderLayer):
    """One Transformer layer (torch), every token with every other, heads of `head_width`."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__(
            width, max(1, width // head_width), expand * width, dropout=0.0, batch_first=True, norm_first=True
        )


class _TokenMLP(nn.Sequential):
    """No token learns of another."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__(nn.Linear(width, expand * width), nn.SiLU(), nn.Linear(expand * width, width))


MIXERS: dict[str, type[nn.Module]] = {"mamba2": Mamba2, "lstm": _LSTM, "transformer": _Transformer, "none": _TokenMLP}
