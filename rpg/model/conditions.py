"""What tells the backbone where a token stands and which network is wanted.

A condition is a module from values [B, C], what the caller asks of each of B networks, to [B, 1 or L, M], which is
added to every position, or to each its own. `KINDS` lists them; another kind is one more class and its params block.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from rpg.config.model import (
        Condition,
        PermutationStateCondition,
        TaskCodeCondition,
        UnconditionalCondition,
        VectorCondition,
    )


class PermutationState(nn.Module):
    """One learned vector, or L, per permutation state; values [B, S] are shares of the states (RPG section 2.3).

    A network of one state has 1 there, one between two states a share of each.
    """

    def __init__(
        self, params: "PermutationStateCondition", states: int, length: int, width: int, normalised: bool = False
    ) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(states, width * (length if params.reach == "each" else 1))

    def forward(self, values_BS: Tensor) -> Tensor:
        """[B, 1 or L, M]."""
        return (values_BS.to(self.embedding.weight) @ self.embedding.weight).unflatten(1, (-1, self.width))


class Vector(nn.Module):
    """Values [B, C], any real numbers, through Linear, or Linear-SiLU-Linear if `hidden` is given.

    `normalised` gives each token's vector mean 0 and standard deviation 1, as an embedding has at the start: without
    it a task code moves the prototypes a tenth as much as a permutation state does, and is learned late.
    """

    def __init__(
        self,
        params: "VectorCondition | TaskCodeCondition",
        values: int,
        length: int,
        width: int,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.normalised = width, normalised
        outputs = width * (length if params.reach == "each" else 1)
        self.layers: nn.Module = nn.Linear(values, outputs)
        if params.hidden:
            self.layers = nn.Sequential(nn.Linear(values, params.hidden), nn.SiLU(), nn.Linear(params.hidden, outputs))

    def forward(self, values_BC: Tensor) -> Tensor:
        """[B, 1 or L, M]."""
        embedded = self.layers(values_BC.to(next(self.parameters()))).unflatten(1, (-1, self.width))
        return functional.layer_norm(embedded, embedded.shape[-1:]) if self.normalised else embedded


class TaskCode(Vector):
    """Values [B, C] are the bits of the task code, 0 or 1 (RPG section 4, unseen tasks)."""


class Unconditional(nn.Module):
    """One learned vector for all networks, whatever the values [B, 1] are."""

    def __init__(
        self, params: "UnconditionalCondition", values: int, length: int, width: int, normalised: bool = False
    ) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(width))

    def forward(self, values_B1: Tensor) -> Tensor:
        """[B, 1, M]."""
        return self.vector.expand(len(values_B1), 1, -1)


KINDS = {
    "permutation_state": PermutationState,
    "task_code": TaskCode,
    "vector": Vector,
    "unconditional": Unconditional,
}


def condition_name(params: "Condition") -> str:
    """The name by which a caller sets the condition: its kind, or the field of a vector."""
    return params.field if params.kind == "vector" else params.kind


class Conditions(nn.Module):
    """All conditions of a model for L tokens, added up.

    `sizes`: name → C, how many values each has. `head_L`: which tokens are of the network's head.
    """

    head: Tensor

    def __init__(
        self,
        params: "Sequence[Condition]",
        sizes: Mapping[str, int],
        head_L: Tensor,
        width: int,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("head", head_L.unsqueeze(-1), persistent=False)
        self.kinds = nn.ModuleDict()
        self.of_head = {condition_name(entry) for entry in params if getattr(entry, "reach", None) == "head"}
        for entry in params:
            name = condition_name(entry)
            self.kinds[name] = KINDS[entry.kind](entry, sizes[name], len(head_L), width, normalised)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """[B, 1 or L, M] from name → values [B, C]; ValueError if the names are not those of the conditions."""
        if set(values) != set(self.kinds):
            raise ValueError(f"conditions {sorted(values)} given, the model was trained with {sorted(self.kinds)}")
        embedded = [
            kind(values[name]) * self.head if name in self.of_head else kind(values[name])
            for name, kind in self.kinds.items()
        ]
        total = embedded[0]
        for other in embedded[1:]:
            total = total + other
        return total
