"""One RPG for several architectures: the backbone's blocks, the denoiser and the conditions are shared.

Each architecture has its own number L of tokens, with their own positions and descriptors. Its networks' permutation
states are a part of all states of the joint model.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model.backbones import TokenPositions
from rpg.model.conditions import Conditions
from rpg.model.diffusion import Target
from rpg.model.rpg import RPG
from rpg.tokenizer.descriptors import descriptors
from rpg.tokenizer.layout import Layout
from rpg.utils.errors import UserError

if TYPE_CHECKING:
    from rpg.config.model import Model

STATES = "permutation_state"


class OwnStates(nn.Module):
    """The conditions of one architecture: its states are `states` of the joint model's, from state `first` on."""

    def __init__(self, conditions: Conditions, first: int, states: int, total: int) -> None:
        super().__init__()
        self.shared, self.first, self.after = conditions, first, total - first - states

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the sum [B, 1, M] of the conditions for shares [B, S] of the architecture's own states."""
        return self.shared({**values, STATES: functional.pad(values[STATES], (self.first, self.after))})


class Places:
    """The places of all trained architectures' tokens: a learned vector belongs to a place, not to an architecture.

    A place is the index of a tensor, and the token's index in it, so that networks of several widths share places.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        places = dict.fromkeys(place for layout in layouts for place in map(tuple, layout.positions().tolist()))
        self._index = {place: index for index, place in enumerate(places)}

    def tokens(self, layout: Layout) -> TokenPositions:
        """Return the positions of an architecture's tokens; UserError if a place is in no trained architecture."""
        positions_L2 = layout.positions()
        try:
            places = [self._index[index, tensor] for index, tensor in positions_L2.tolist()]
        except KeyError as error:
            raise UserError(
                "the architecture has a token that no trained architecture has; ask for no more tensors, and for no"
                " wider ones, than the trained architectures have"
            ) from error
        known = descriptors(layout), torch.tensor(places), len(self._index)
        return TokenPositions(positions_L2, layout.head(), *known)


class JointRPG(nn.Module):
    """RPGs of several architectures with common weights; `members` are the RPGs, in the order of the architectures.

    Each member is an `RPG` of its own tokens and states, for all code that trains an RPG or samples from it. The state
    dict is that of the first member.
    """

    def __init__(
        self,
        params: "Model",
        architectures: Sequence[tuple[Layout, int]],
        *,
        width: int,
        target: Target,
    ) -> None:
        """Build untrained RPGs; `architectures` are the layout and the number of states of each."""
        super().__init__()
        counts = [states for _, states in architectures]
        self.params, self.width, self.target, self.states = params, width, target, sum(counts)
        self.places = Places([layout for layout, _ in architectures])
        self.shared = self._built(architectures[0][0])
        self.members = [
            self._own(self.shared if index == 0 else self._built(layout), first, states)
            for index, ((layout, states), first) in enumerate(
                zip(architectures, accumulate(counts, initial=0), strict=False)
            )
        ]

    def asked(self, layout: Layout) -> RPG:
        """Return the RPG of any architecture, also one that was not trained, in all states of the joint model.

        Raises UserError if the architecture has a token at a place that no trained architecture has.
        """
        return self._own(self._built(layout), 0, self.states)

    def units(self) -> list[nn.Module]:
        """Return the parts that run one after another and hold most of the weights."""
        return self.shared.units()

    def recompute(self) -> None:
        """Switch to activation checkpointing: the backward pass computes most activations again."""
        self.shared.recompute()

    def _built(self, layout: Layout) -> RPG:
        tokens = self.places.tokens(layout)
        return RPG(self.params, tokens, width=self.width, sizes={STATES: self.states}, target=self.target)

    def _own(self, member: RPG, first: int, states: int) -> RPG:
        """Return `member` with the shared weights, whose states are those from `first` on."""
        shared, own = self.shared, member.recurrent
        conditions = shared.recurrent.conditions
        if isinstance(conditions, OwnStates):
            conditions = conditions.shared
        for name, module in shared.recurrent.named_children():
            if name != "conditions":
                setattr(own, name, module)
        for name, parameter in shared.recurrent.named_parameters(recurse=False):
            setattr(own, name, parameter)
        member.denoiser = shared.denoiser
        own.conditions = OwnStates(conditions, first, states, self.states)  # type: ignore[assignment]
        return member.to(next(shared.parameters()).device).train(shared.training)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "JointRPG":
        super()._apply(fn, recurse)
        # The weights are those of `shared`; only the positions of the other members have not been moved yet.
        for member in self.members[1:]:
            member._apply(fn, recurse)
        return self
