"""Flow matching of weights (DeepWeightFlow, arXiv 2601.05052): an MLP learns a velocity from noise to networks.

The paths are straight: x_t = (1 - t) · noise + t · network, and the velocity is network - noise (Lipman et al. 2023).
The noise is narrow: its standard deviation is a small share of the zoo's. A little noise is on the path, too. With
`components`, the flow has the zoo's principal components as coordinates. `align` matches the units of all networks
first, as the paper does. The published MLP has dropout, this one has none.

B networks, P weights, K coordinates.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from rpg.model.diffusion import T
from rpg.peers.base import ConditionEmbedding, Peer, PeerConditions, ResidualMLP, ZooVectors, noise, noise_like

if TYPE_CHECKING:
    from rpg.config.peers import FlowParams


class Flow(Peer):
    """The velocity's MLP, and the coordinates: a point is `mean` [P] + coordinates [K] · `scale` · `basis` [K, P]."""

    mean_P: Tensor
    basis_KP: Tensor
    scale: Tensor
    params: "FlowParams"

    def __init__(self, params: "FlowParams", padding_LD: Tensor, conditions: PeerConditions) -> None:
        super().__init__(params, padding_LD, conditions)
        coordinates = min(params.components or self.weights, self.weights)
        self.register_buffer("mean_P", torch.zeros(self.weights))
        self.register_buffer(
            "basis_KP", torch.zeros(coordinates, self.weights) if params.components else torch.zeros(0)
        )
        self.register_buffer("scale", torch.ones(()))
        self.embedding = ConditionEmbedding(conditions.width, params.hidden)
        self.velocity = ResidualMLP(coordinates, coordinates, params.hidden, params.blocks)
        self.coordinates = coordinates

    def fit(self, zoo: ZooVectors) -> None:
        """Compute the mean, the principal components and the scale."""
        self.mean_P.copy_(zoo.points_NP.mean(0))
        centered_NP = zoo.points_NP - self.mean_P
        if self.params.components:
            # A zoo of N networks has at most N - 1 components; further rows stay zero.
            basis_KP = torch.linalg.svd(centered_NP, full_matrices=False).Vh[: self.coordinates]
            self.basis_KP[: len(basis_KP)] = basis_KP
            centered_NP = centered_NP @ self.basis_KP.T
        self.scale.copy_(centered_NP.square().mean().sqrt().clamp(min=1e-6))

    def flat(self, points_BP: Tensor) -> Tensor:
        """Return the coordinates [B, K] of points."""
        centered_BP = points_BP - self.mean_P
        return (centered_BP @ self.basis_KP.T if self.params.components else centered_BP) / self.scale

    def loss(
        self, phase: int, points_BP: Tensor, conditions_BC: Tensor, views_BP: Tensor | None, draw: torch.Generator
    ) -> Tensor:
        """Return the mean squared error of the velocity at random times."""
        x1_BK = self.flat(points_BP)
        x0_BK = self.params.source * noise_like(x1_BK, draw)
        t_B = torch.rand(len(x1_BK), generator=draw).to(x1_BK)
        x_BK = torch.lerp(x0_BK, x1_BK, t_B.unsqueeze(1))
        x_BK = x_BK + self.params.path * noise_like(x_BK, draw)
        return functional.mse_loss(self.at(x_BK, t_B, conditions_BC), x1_BK - x0_BK)

    def at(self, x_BK: Tensor, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the velocity [B, K] at times from 0 to 1."""
        return self.velocity(x_BK, self.embedding(t_B * (T - 1), conditions_BC))

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Integrate the velocity from noise, by the Runge-Kutta method of fourth order."""
        conditions_BC = self.conditions.joined(values, self.anchor)
        x_BK = temperature * self.params.source * noise(draws, (self.coordinates,), self.anchor)
        h = 1 / self.params.steps
        for step in range(self.params.steps):
            t_B = torch.full((len(x_BK),), step * h).to(x_BK)
            k1 = self.at(x_BK, t_B, conditions_BC)
            k2 = self.at(x_BK + h / 2 * k1, t_B + h / 2, conditions_BC)
            k3 = self.at(x_BK + h / 2 * k2, t_B + h / 2, conditions_BC)
            k4 = self.at(x_BK + h * k3, t_B + h, conditions_BC)
            x_BK = x_BK + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        x_BK = x_BK * self.scale
        return self.mean_P + (x_BK @ self.basis_KP if self.params.components else x_BK)
