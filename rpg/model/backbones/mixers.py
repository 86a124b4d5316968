"""Mixers, the sequence layers inside residual blocks: [B, L, M] → [B, L, M]."""

from torch import Tensor, nn

from rpg.model.mamba2 import Mamba2


class LSTM(nn.Module):
    """One LSTM layer of torch over the tokens in their order."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(width, width, batch_first=True)

    def forward(self, hidden_BLM: Tensor) -> Tensor:
        return self.layer(hidden_BLM)[0]


class Transformer(nn.TransformerEncoderLayer):
    """One Transformer layer of torch: every token attends to every token; each head has `head_width` channels."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__(
            width, max(1, width // head_width), expand * width, dropout=0.0, batch_first=True, norm_first=True
        )


class TokenMLP(nn.Sequential):
    """An MLP on each token alone; tokens do not exchange information."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__(nn.Linear(width, expand * width), nn.SiLU(), nn.Linear(expand * width, width))


# `model.backbone.kind` → the mixer of the residual blocks.
MIXERS: dict[str, type[nn.Module]] = {"mamba2": Mamba2, "lstm": LSTM, "transformer": Transformer, "mlp": TokenMLP}
