"""The conditions of the backbone: permutation state, task code, prompt and vectors that choose the requested networks.

A condition is a module. Its input is the requested values [B, C] of B networks; those of prompts have more axes. Its
output is [B, 1, M], added to every position, or [B, L, M], one vector per position. `KINDS` lists all kinds. To add a
kind, write a class here and its block in `rpg.config.model`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model.set_encoder import GROUPS, SetEncoder
from rpg.utils.statistics import divisor

if TYPE_CHECKING:
    from rpg.config.model import (
        Condition,
        PermutationStateCondition,
        TaskCodeCondition,
        UnconditionalCondition,
        VectorCondition,
    )


class PermutationState(nn.Module):
    """Embed permutation states: one learned vector, or L vectors, per state (RPG section 2.3).

    Values [B, S] are shares of the S states. A network in one state has the share 1 for this state. A network between
    two states has a share of each.
    """

    def __init__(
        self, params: "PermutationStateCondition", states: int, length: int, width: int, normalized: bool = False
    ) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(states, width * (length if params.reach == "each" else 1))

    def forward(self, values_BS: Tensor) -> Tensor:
        """Return the condition vectors [B, 1, M], or [B, L, M] with one per token."""
        return (values_BS.to(self.embedding.weight) @ self.embedding.weight).unflatten(1, (-1, self.width))


class _NumbersEmbedding(nn.Module):
    """Embed real values [B, C] by Linear, or by Linear-SiLU-Linear if `hidden` is given.

    With `normalized`, each token's vector has mean 0 and standard deviation 1, as a new embedding has. Without it, a
    task code moves the prototypes a tenth as much as a permutation state does, and the model learns the code late.
    """

    def __init__(
        self,
        params: "VectorCondition | TaskCodeCondition",
        values: int,
        length: int,
        width: int,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.normalized = width, normalized
        outputs = width * (length if params.reach == "each" else 1)
        self.layers: nn.Module = nn.Linear(values, outputs)
        if params.hidden:
            self.layers = nn.Sequential(nn.Linear(values, params.hidden), nn.SiLU(), nn.Linear(params.hidden, outputs))

    def forward(self, values_BC: Tensor) -> Tensor:
        """Return the condition vectors [B, 1, M], or [B, L, M] with one per token."""
        embedded = self.layers(values_BC.to(next(self.parameters()))).unflatten(1, (-1, self.width))
        return functional.layer_norm(embedded, embedded.shape[-1:]) if self.normalized else embedded


class Vector(_NumbersEmbedding):
    """Embed the numbers of a checkpoint's vector, values [B, C], standardized by the zoo's mean and deviation.

    Without that, a percentage of 90 and one of 95 are nearly the same input. A training sets both; the state dict holds
    them. With `dropout`, values of NaN are unknown, and the network gets one learned vector for them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, params: "VectorCondition", values: int, length: int, width: int, normalized: bool = False
    ) -> None:
        super().__init__(params, values, length, width, normalized)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("std", torch.ones(values))
        self.unknown = nn.Parameter(torch.zeros(width)) if params.dropout else None

    def standardize(self, values_NC: Tensor) -> None:
        """Take mean and deviation from the values [N, C] of the zoo's checkpoints."""
        std_C, mean_C = torch.std_mean(values_NC.double(), dim=0, correction=0)
        self.mean.copy_(mean_C)
        self.std.copy_(divisor(std_C, mean_C))

    def forward(self, values_BC: Tensor) -> Tensor:
        """Return the condition vectors [B, 1, M], or [B, L, M] with one per token."""
        standard_BC = (values_BC.to(self.mean) - self.mean) / self.std
        if self.unknown is None:
            return super().forward(standard_BC)
        unknown_B11 = standard_BC.isnan().any(1)[:, None, None]
        return torch.where(unknown_B11, self.unknown, super().forward(standard_BC.nan_to_num(0.0)))


class TaskCode(_NumbersEmbedding):
    """Embed the bits of a task code, values [B, C] of 0 or 1 (RPG section 4, unseen tasks)."""


class Unconditional(nn.Module):
    """Give all networks one learned vector; the values [B, 1] are ignored."""

    def __init__(
        self, params: "UnconditionalCondition", values: int, length: int, width: int, normalized: bool = False
    ) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(width))

    def forward(self, values_B1: Tensor) -> Tensor:
        """Return the same vector for all networks, [B, 1, M]."""
        return self.vector.expand(len(values_B1), 1, -1)


KINDS = {
    "permutation_state": PermutationState,
    "task_code": TaskCode,
    "images": SetEncoder,
    "text": SetEncoder,
    "vector": Vector,
    "unconditional": Unconditional,
}


def condition_name(params: "Condition") -> str:
    """Return the name by which a caller sets the condition: its kind, or the name or field of a vector."""
    return params.name or params.field if params.kind == "vector" else params.kind


def _tokens(params: "Condition", head_L: Tensor) -> Tensor | None:
    """Return [L] the tokens that a condition reaches; None if it reaches all."""
    if params.kind == "unconditional" or params.reach in ("all", "each"):
        return None
    if isinstance(params.reach, str):
        return head_L
    last_L = torch.zeros_like(head_L)
    last_L[-params.reach.last :] = True
    return last_L


def _key(name: str) -> str:
    """Return the key of a condition's module: torch takes no dots, as in optimizer.rate, and no attributes, as type."""
    return f"{name.replace('.', '/')}{'/' if hasattr(nn.ModuleDict, name) or name in vars(nn.ModuleDict()) else ''}"


class Conditions(nn.Module):
    """Sum all conditions of a model for L tokens.

    `sizes` maps the name of a condition to C, its number of values. `head_L` marks the tokens of the network's head.
    """

    def __init__(
        self,
        params: "Sequence[Condition]",
        sizes: Mapping[str, int],
        head_L: Tensor,
        width: int,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict()
        self.names = [condition_name(entry) for entry in params]
        # The names of the conditions that reach some tokens only.
        self.partial: set[str] = set()
        for entry in params:
            name = condition_name(entry)
            # A prompt has no fixed number of values.
            size = 0 if entry.kind in GROUPS else sizes[name]
            self.kinds[_key(name)] = KINDS[entry.kind](entry, size, len(head_L), width, normalized)
            if (tokens_L := _tokens(entry, head_L)) is not None:
                self.partial.add(name)
                self.register_buffer(f"tokens_{_key(name)}", tokens_L.unsqueeze(-1), persistent=False)

    def named(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the name and the module of each condition."""
        yield from zip(self.names, self.kinds.values(), strict=True)

    def tokens(self, name: str) -> Tensor | None:
        """Return [L, 1] the tokens that the condition reaches; None if it reaches all."""
        return self.get_buffer(f"tokens_{_key(name)}") if name in self.partial else None

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the sum [B, 1 or L, M] for `values`, name → [B, C]; ValueError if a name is missing or unknown."""
        if set(values) != set(self.names):
            raise ValueError(f"conditions {sorted(values)} given, the model was trained with {sorted(self.names)}")
        embedded = [
            kind(values[name]) * self.tokens(name) if name in self.partial else kind(values[name])
            for name, kind in self.named()
        ]
        total = embedded[0]
        for other in embedded[1:]:
            total = total + other
        return total
