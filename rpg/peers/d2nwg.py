"""D2NWG (arXiv 2402.18153): a VAE of chunks of weights, then a diffusion of a network's latents, given its data set.

The chunks are RPG's tokens. One VAE encodes all of them; an embedding of a token's place tells it which token it has.
The conditions of the diffusion are the experiment's. With `images`, a set encoder embeds a support set of the task, in
place of the published encoder of a data set; else the task code or the permutation state tells the task.

B networks, L chunks of D weights, Z the width of a chunk's latent.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.peers.base import ConditionEmbedding, LatentDiffusion, PeerConditions, ResidualMLP, noise_like

if TYPE_CHECKING:
    from rpg.config.peers import D2NWGParams


class D2NWG(LatentDiffusion):
    """The VAE, and the denoiser of a network's latents [B, L · Z]."""

    params: "D2NWGParams"

    def __init__(self, params: "D2NWGParams", padding_LD: Tensor, conditions: PeerConditions) -> None:
        length, width = padding_LD.shape
        numbers, hidden = length * params.latent, params.hidden
        super().__init__(params, padding_LD, conditions, (numbers,))
        self.place = nn.Embedding(length, hidden)
        self.into = nn.Linear(width, hidden)
        self.encoder = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * params.latent)
        )
        self.latent = nn.Linear(params.latent, hidden)
        self.decoder = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width))
        self.embedding = ConditionEmbedding(conditions.width, params.width)
        self.denoiser = ResidualMLP(numbers, numbers, params.width, params.blocks)
        # Most of noisy latents is the noise itself, which an MLP narrower than them can't pass through.
        self.skip = nn.Linear(params.width, 1)

    def posterior(self, points_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and logarithms of variances of the latents [B, L, Z]."""
        mean, log_variance = self.encoder(self.into(self.tokens_of(points_BP)) + self.place.weight).chunk(2, dim=-1)
        return mean, log_variance

    def encode(self, points_BP: Tensor) -> Tensor:
        """Return the means of the latents [B, L · Z]."""
        return self.posterior(points_BP)[0].flatten(1)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the points [B, P]."""
        latents_BLZ = latents.unflatten(1, (self.length, -1))
        return self.decoder(self.latent(latents_BLZ) + self.place.weight)[:, ~self.padding_LD]

    def reconstruction(self, points_BP: Tensor, draw: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound: squared error plus `kl` times the divergence, as means."""
        mean, log_variance = self.posterior(points_BP)
        decoded_BP = self.decode((mean + (0.5 * log_variance).exp() * noise_like(mean, draw)).flatten(1))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return functional.mse_loss(decoded_BP, points_BP) + self.params.kl * divergence

    def predicted(self, noisy: Tensor, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the predicted noise [B, L · Z]."""
        embedded_BW = self.embedding(t_B, conditions_BC)
        return self.denoiser(noisy, embedded_BW) + self.skip(embedded_BW) * noisy
