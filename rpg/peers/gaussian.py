"""A Gaussian of each weight, as the smallest example of a generator in RPG's place.

A state's networks have the mean and the standard deviation of its own checkpoints. Without the condition
permutation_state, all checkpoints share them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rpg.peers.base import Peer, PeerConditions, ZooVectors, noise

if TYPE_CHECKING:
    from rpg.config.peers import GaussianParams


class Gaussian(Peer):
    """The mean and standard deviation [S, P] of each of S states, or of all checkpoints."""

    mean_SP: Tensor
    std_SP: Tensor

    def __init__(self, params: "GaussianParams", padding_LD: Tensor, conditions: PeerConditions) -> None:
        super().__init__(params, padding_LD, conditions)
        states = conditions.sizes.get("permutation_state", 1)
        self.register_buffer("mean_SP", torch.zeros(states, self.weights))
        self.register_buffer("std_SP", torch.zeros(states, self.weights))

    @property
    def shares(self) -> Sequence[float]:
        """No phase."""
        return ()

    def fit(self, zoo: ZooVectors) -> None:
        """Compute means and standard deviations."""
        states_N = zoo.states_N if len(self.mean_SP) > 1 else torch.zeros_like(zoo.states_N)
        for state in range(len(self.mean_SP)):
            own_NP = zoo.points_NP[states_N == state]
            self.mean_SP[state] = own_NP.mean(0)
            self.std_SP[state] = own_NP.std(0, correction=min(1, len(own_NP) - 1))

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Return mean + temperature · standard deviation · noise [B, P]."""
        shares_BS = (
            values["permutation_state"].to(self.mean_SP)
            if len(self.mean_SP) > 1
            else self.mean_SP.new_ones(len(draws), 1)
        )
        noise_BP = noise(draws, (self.weights,), self.mean_SP)
        return shares_BS @ self.mean_SP + temperature * (shares_BS @ self.std_SP) * noise_BP
