"""D2NWG (arXiv 2402.18153): a VAE of chunks of weights, then a diffusion of a network's latents, given its data set.

The chunks are RPG's tokens. One VAE encodes all of them; an embedding of a token's place tells it which token it has.
The condition of the diffusion is the experiment's: the task code or the permutation state in place of the published
embedding of a data set.

B networks, L chunks of D weights, Z the width of a chunk's latent.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model import diffusion
from rpg.model.peers.base import ConditionEmbedding, Peer, ResidualMLP, ZooVectors, noise

if TYPE_CHECKING:
    from rpg.config.peers import D2NWGParams


class D2NWG(Peer):
    """The VAE, and the denoiser of a network's latents [L · Z], standardized by `center` and `scale`."""

    center: Tensor
    scale: Tensor
    params: "D2NWGParams"

    def __init__(self, params: "D2NWGParams", padding_LD: Tensor, sizes: Mapping[str, int]) -> None:
        super().__init__(params, padding_LD, sizes)
        hidden = params.hidden
        self.place = nn.Embedding(self.length, hidden)
        self.into = nn.Linear(self.width, hidden)
        self.encoder = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * params.latent)
        )
        self.latent = nn.Linear(params.latent, hidden)
        self.decoder = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, self.width))
        numbers = self.length * params.latent
        self.register_buffer("center", torch.zeros(numbers))
        self.register_buffer("scale", torch.ones(()))
        self.embedding = ConditionEmbedding(self.conditions, params.width)
        self.denoiser = ResidualMLP(numbers, numbers, params.width, params.blocks)
        # Most of noisy latents is the noise itself, which an MLP narrower than them can't pass through.
        self.skip = nn.Linear(params.width, 1)

    @property
    def shares(self) -> Sequence[float]:
        """The VAE's share, and the denoiser's."""
        return (self.params.autoencoder, 1 - self.params.autoencoder)

    def encode(self, points_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and logarithms of variances of the latents [B, L, Z]."""
        mean, log_variance = self.encoder(self.into(self.tokens_of(points_BP)) + self.place.weight).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, latents_BLZ: Tensor) -> Tensor:
        """Return the points [B, P]."""
        tokens_BLD = self.decoder(self.latent(latents_BLZ) + self.place.weight)
        return tokens_BLD[:, ~self.padding_LD]

    def begin(self, phase: int, zoo: ZooVectors) -> None:
        """Standardize the latents of the zoo before the denoiser learns."""
        if phase:
            with torch.no_grad():
                latents = torch.cat(
                    [self.encode(part.to(self.anchor))[0].flatten(1) for part in zoo.points_NP.split(8)]
                )
                self.center.copy_(latents.mean(0))
                self.scale.copy_((latents - self.center).std())

    def loss(
        self, phase: int, points_BP: Tensor, conditions_BC: Tensor, views_BP: Tensor, draw: torch.Generator
    ) -> Tensor:
        """Return the negative evidence lower bound, or the mean squared error of the predicted noise."""

        def drawn(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=draw).to(like)

        if phase == 0:
            mean, log_variance = self.encode(points_BP)
            decoded_BP = self.decode(mean + (0.5 * log_variance).exp() * drawn(mean))
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            return functional.mse_loss(decoded_BP, points_BP) + self.params.kl * divergence
        with torch.no_grad():
            x0 = (self.encode(points_BP)[0].flatten(1) - self.center) / self.scale
        t_B = torch.randint(diffusion.T, (len(x0),), generator=draw).to(x0.device)
        epsilon = drawn(x0)
        noisy = diffusion.add_noise(x0, epsilon, t_B)
        return functional.mse_loss(self.predicted(noisy, t_B, conditions_BC), epsilon)

    def predicted(self, noisy_Bn: Tensor, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the predicted noise [B, n]."""
        embedded_BW = self.embedding(t_B, conditions_BC)
        return self.denoiser(noisy_Bn, embedded_BW) + self.skip(embedded_BW) * noisy_Bn

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Denoise latents, and decode them."""
        conditions_BC = self.joined(values)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.predicted(x, t.flatten().expand(len(x)), conditions_BC)

        def drawn() -> Tensor:
            return temperature * noise(draws, self.center.shape, self.center)

        latents = diffusion.sample(
            predict,
            drawn(),
            target="epsilon",
            solver=self.params.solver,
            steps=self.params.steps,
            noise=lambda _: drawn(),
        )
        latents = latents * self.scale + self.center
        return self.decode(latents.unflatten(1, (self.length, -1)))
