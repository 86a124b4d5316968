"""Mixers: what a residual block does with the tokens, [B, L, M] → [B, L, M]."""

from torch import Tensor, nn

from rpg.model.mamba2 import Mamba2


class LSTM(nn.Module):
    """One LSTM layer (torch), in the order of the tokens."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(width, width, batch_first=True)

    def forward(self, hidden_BLM: Tensor) -> Tensor:
        return self.layer(hidden_BLM)[0]


class Transformer(nn.TransformerEncoderLayer):
    """One Transformer layer (torch): every token attends to every token, with heads of `head_width`."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__(
            width, max(1, width // head_width), expand * width, dropout=0.0, batch_first=True, norm_first=True
        )


class TokenMLP(nn.Sequential):
    """An MLP on each token alone: no token learns about another."""

    def __init__(self, width: int, *, state_width: int, head_width: int, expand: int) -> None:
        super().__init__(nn.Linear(width, expand * width), nn.SiLU(), nn.Linear(expand * width, width))


# `model.backbone.kind` → the mixer of the residual blocks.
MIXERS: dict[str, type[nn.Module]] = {"mamba2": Mamba2, "lstm": LSTM, "transformer": Transformer, "mlp": TokenMLP}
