"""The layout: the rows of the tokens that hold each tensor of a state dict."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from rpg.tokenizer.copied import Copied
from rpg.utils.errors import UserError

if TYPE_CHECKING:
    from rpg.tokenizer.manifest import LayoutForm


@dataclass(frozen=True)
class TensorLayout:
    """The place of one tensor of a state dict: `tokens` rows from row `first`, or no row if `tokens` is 0.

    A tensor without rows is a copy of the tensor `tied_to`, or else of the zoo's. The weights are cut into `parts`
    equal parts, one for each output channel, or one part with all weights. Each part begins with a new token.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    first: int
    tokens: int
    tied_to: str | None = None
    parts: int = 1

    def padded(self, weights: Tensor, width: int) -> Tensor:
        """Return the flattened `weights`; several parts are each padded with NaN to a multiple of `width`."""
        if self.parts == 1:
            return weights.flatten()
        parts = weights.reshape(self.parts, -1)
        return functional.pad(parts, (0, -parts.shape[1] % width), value=math.nan).flatten()

    def unpadded(self, rows: Tensor) -> Tensor:
        """Return the weights [..., n] in the tensor's tokens `rows` [..., tokens, D], without padding."""
        numbers = math.prod(self.shape) // self.parts
        return rows.unflatten(-2, (self.parts, -1)).flatten(-2)[..., :numbers].flatten(-2)

    @property
    def is_variance(self) -> bool:
        return self.name.rpartition(".")[2] == "running_var"


@dataclass(frozen=True)
class Layout:
    """Tensor ↔ token map of one architecture, in state-dict order."""

    width: int
    tensors: tuple[TensorLayout, ...]
    # Whether low-rank pairs get their canonical form before they become tokens.
    canonical: bool = False

    @classmethod
    def of(
        cls,
        state_dict: dict[str, Tensor],
        width: int,
        canonical: bool = False,
        copied: Copied | None = None,
        by_channel: bool = False,
    ) -> "Layout":
        """Return the layout of `state_dict` with tokens of `width` weights; `copied` tensors have none.

        With `by_channel`, each output channel of a convolution or linear map begins with a new token. Raises UserError
        if no tensor can become tokens.
        """
        copied = copied or Copied()
        tensors, first = [], 0
        for name, tensor in state_dict.items():
            skipped = name.endswith("num_batches_tracked") or tensor.numel() <= 1 or not tensor.is_floating_point()
            parts = len(tensor) if by_channel and tensor.ndim > 1 and not skipped and name not in copied else 1
            tokens = 0 if skipped or name in copied else parts * math.ceil(tensor.numel() / parts / width)
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors.append(TensorLayout(name, tuple(tensor.shape), dtype, first, tokens, copied.tied.get(name), parts))
            first += tokens
        if first == 0:
            raise UserError(
                "no tensor of the checkpoint can become tokens; save a state dict of floating-point weights"
            )
        return cls(width, tuple(tensors), canonical)

    @classmethod
    def of_form(cls, form: "LayoutForm") -> "Layout":
        """Return the layout that tokens/layout.json describes."""
        tensors = (
            TensorLayout(
                tensor.name,
                tuple(tensor.shape),
                tensor.dtype,
                tensor.first,
                tensor.tokens,
                tensor.tied_to,
                tensor.parts,
            )
            for tensor in form.tensors
        )
        return cls(form.width, tuple(tensors), form.canonical)

    def tree(self) -> dict[str, Any]:
        """Return the layout as `of_form` reads it from a JSON file."""
        # Only the layout of adapters has the key `canonical`, and only a tied tensor has the key `tied_to`.
        tree = {key: value for key, value in asdict(self).items() if value is not False}
        return {**tree, "tensors": [_described(tensor) for tensor in self.tensors]}

    @property
    def length(self) -> int:
        """L, tokens per checkpoint."""
        return sum(tensor.tokens for tensor in self.tensors)

    @property
    def weights(self) -> int:
        """P, the number of weights in a network's tokens."""
        return sum(math.prod(tensor.shape) for tensor in self.tokenized)

    @property
    def tokenized(self) -> tuple[TensorLayout, ...]:
        """The K tensors that become tokens."""
        return tuple(tensor for tensor in self.tensors if tensor.tokens)

    @property
    def skipped(self) -> tuple[TensorLayout, ...]:
        """The tensors that are copied from the zoo: counters, single numbers, integers, state, constant tensors."""
        return tuple(tensor for tensor in self.tensors if not tensor.tokens and not tensor.tied_to)

    def positions(self) -> Tensor:
        """Return [L, 2] int64: the token's index in its tensor, and the tensor's index among the K tokenized."""
        rows = [(i, k) for k, tensor in enumerate(self.tokenized) for i in range(tensor.tokens)]
        return torch.tensor(rows)

    def head(self) -> Tensor:
        """Return [L] bool: True for the tokens of the state dict's last module, a classifier's weight and bias."""
        module = self.tokenized[-1].name.rpartition(".")[0]
        head_L = torch.zeros(self.length, dtype=torch.bool)
        for tensor in self.tokenized:
            if tensor.name.rpartition(".")[0] == module:
                head_L[tensor.first : tensor.first + tensor.tokens] = True
        return head_L

    def padding(self) -> Tensor:
        """Return [L, D] bool: True for entries of a token that hold no weight."""
        padding_LD = torch.zeros(self.length, self.width, dtype=torch.bool)
        for tensor in self.tokenized:
            rows = padding_LD[tensor.first : tensor.first + tensor.tokens].view(tensor.parts, -1)
            rows[:, math.prod(tensor.shape) // tensor.parts :] = True
        return padding_LD

    def check(self, state_dict: dict[str, Tensor], file: Path | str, remedy: str) -> None:
        """Raise UserError if `state_dict` has another structure, a negative variance, or a NaN or Inf in a token.

        The message names `file`, the tensor and `remedy`.
        """
        expected = {tensor.name: tensor for tensor in self.tensors}
        for name in state_dict:
            if name not in expected:
                raise UserError(f"{file}: tensor '{name}' is not in the zoo's other checkpoints")
        for name, tensor in expected.items():
            if name not in state_dict:
                raise UserError(f"{file}: tensor '{name}' is missing; the zoo's other checkpoints have it")
            weights = state_dict[name]
            if tuple(weights.shape) != tensor.shape:
                raise UserError(f"{file}: tensor '{name}' has shape {list(weights.shape)}, not {list(tensor.shape)}")
            dtype = str(weights.dtype).removeprefix("torch.")
            if dtype != tensor.dtype:
                raise UserError(f"{file}: tensor '{name}' is {dtype}, not {tensor.dtype} as in the other checkpoints")
            if tensor.is_variance and (weights < 0).any():
                raise UserError(f"{file}: tensor '{name}' holds a negative variance; {remedy}")
            if tensor.tokens and not _is_finite(weights):
                raise UserError(f"{file}: tensor '{name}' holds NaN or Inf; {remedy}")


def _described(tensor: TensorLayout) -> dict[str, Any]:
    # Artifacts of versions without `parts` lack the key.
    tree = {key: value for key, value in asdict(tensor).items() if value is not None and (key, value) != ("parts", 1)}
    return {**tree, "shape": list(tensor.shape)}


def _is_finite(weights: Tensor) -> bool:
    # A NaN or Inf makes the sum NaN or Inf. The sum takes a fortieth of the time of torch.isfinite, but may overflow.
    return math.isfinite(weights.sum().item()) or bool(torch.isfinite(weights).all())
