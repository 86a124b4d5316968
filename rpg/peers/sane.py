"""SANE (Schürholt et al. 2024, arXiv 2406.09997): an autoencoder of token sequences, sampled around example networks.

A Transformer encodes a network's tokens into latent tokens, another one decodes them. The loss adds the contrastive
NT-Xent between two views of each network, as it is and with its units permuted at random, to the reconstruction.
Sampling encodes example networks, the checkpoints of the zoo, estimates a density of each latent token by kernels, and
draws each token on its own. With the condition permutation_state, the examples of a network are those of its states.

B networks, L tokens of D weights, Z the width of a latent token, E examples.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.peers.base import ENCODED, Peer, PeerConditions, ZooVectors, noise

if TYPE_CHECKING:
    from rpg.config.peers import SANEParams


class Coder(nn.Module):
    """Transformer blocks on a sequence with learned positions: [B, L, inputs] → [B, L, outputs]."""

    def __init__(self, inputs: int, outputs: int, length: int, params: "SANEParams") -> None:
        super().__init__()
        self.into = nn.Linear(inputs, params.width)
        self.places = nn.Parameter(0.02 * torch.randn(length, params.width))
        block = nn.TransformerEncoderLayer(
            params.width,
            params.heads,
            4 * params.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(
            block, params.blocks, nn.LayerNorm(params.width), enable_nested_tensor=False
        )
        self.out = nn.Linear(params.width, outputs)

    def forward(self, x_BLn: Tensor) -> Tensor:
        """Return [B, L, outputs]."""
        return self.out(self.blocks(self.into(x_BLn) + self.places))


class SANE(Peer):
    """The autoencoder, its projection for the contrastive loss, and E example networks with their states [E]."""

    examples_EP: Tensor
    states_E: Tensor
    params: "SANEParams"

    def __init__(self, params: "SANEParams", padding_LD: Tensor, conditions: PeerConditions) -> None:
        super().__init__(params, padding_LD, conditions)
        self.encoder = Coder(self.width, params.latent, self.length, params)
        self.decoder = Coder(params.latent, self.width, self.length, params)
        self.projection = nn.Sequential(
            nn.Linear(self.length * params.latent, params.width), nn.SiLU(), nn.Linear(params.width, params.width)
        )
        self.register_buffer("examples_EP", torch.zeros(0))
        self.register_buffer("states_E", torch.zeros(0, dtype=torch.int64))
        # The examples' latents, which all batches of networks share while nothing is learned.
        self._latents: Tensor | None = None

    def fit(self, zoo: ZooVectors) -> None:
        """Keep all checkpoints as examples."""
        self.show(zoo.points_NP, zoo.states_N)

    def show(self, points_EP: Tensor, states_E: Tensor) -> None:
        """Take other examples to sample around."""
        self.examples_EP, self.states_E = points_EP.to(self.anchor), states_E.to(self.anchor.device)
        self._latents = None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: object) -> None:
        # The number of examples is that of the zoo's checkpoints.
        for name in ("examples_EP", "states_E"):
            setattr(self, name, torch.zeros_like(state_dict[f"{prefix}{name}"]))
        self._latents = None
        super()._load_from_state_dict(state_dict, prefix, *others)

    def loss(
        self, phase: int, points_BP: Tensor, conditions_BC: Tensor, views_BP: Tensor | None, draw: torch.Generator
    ) -> Tensor:
        """Return reconstruction and NT-Xent (Chen et al. 2020) of two views of each network."""
        both_BP = points_BP
        if self.params.contrast:
            assert views_BP is not None
            both_BP = torch.cat([points_BP.gather(1, view) for view in views_BP.unbind(1)])
        latents_BLZ = self.encoder(self.tokens_of(both_BP))
        loss = functional.mse_loss(self.decoder(latents_BLZ)[:, ~self.padding_LD], both_BP)
        if not self.params.contrast:
            return loss
        projected = functional.normalize(self.projection(latents_BLZ.flatten(1)), dim=1)
        count = len(points_BP)
        similar = projected @ projected.T / self.params.temperature
        similar = similar.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=similar.device), -torch.inf)
        partners = torch.arange(2 * count, device=similar.device).roll(count)
        return (1 - self.params.contrast) * loss + self.params.contrast * functional.cross_entropy(similar, partners)

    def _encoded(self) -> Tensor:
        """Return the latents [E, L, Z] of the examples."""
        if self.training or self._latents is None:
            parts = self.examples_EP.split(ENCODED)
            self._latents = torch.cat([self.encoder(self.tokens_of(part)) for part in parts])
        return self._latents

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Draw latent tokens from the examples' kernel density, and decode them."""
        latents_ELZ = self._encoded()
        # With a single example, its own spread over the tokens gives the width of the kernel.
        spread = latents_ELZ.std(0) if len(latents_ELZ) > 1 else latents_ELZ[0].std(0).expand_as(latents_ELZ[0])
        shares_BE = torch.ones(len(draws), len(latents_ELZ))
        if "permutation_state" in values:
            shares_BE = values["permutation_state"].cpu()[:, self.states_E.cpu()]
        chosen = [
            torch.multinomial(row, self.length, True, generator=draw)
            for row, draw in zip(shares_BE, draws, strict=True)
        ]
        places = torch.arange(self.length)
        centers_BLZ = torch.stack([latents_ELZ[row.to(latents_ELZ.device), places] for row in chosen])
        noise_BLZ = noise(draws, centers_BLZ.shape[1:], centers_BLZ)
        decoded = self.decoder(centers_BLZ + temperature * self.params.bandwidth * spread * noise_BLZ)
        return decoded[:, ~self.padding_LD]
