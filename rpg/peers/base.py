"""What all generators in RPG's place have in common, and their training.

A peer learns points: the normalized weights [P] of the zoo's networks, without padding. N checkpoints, B networks, P
weights, C numbers of all conditions together. To add one, write a module with a subclass of `Peer`, its block in
`rpg.config.peers`, and its line in `rpg.peers.build.KINDS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model import diffusion
from rpg.model.embeddings import time_embedding
from rpg.model.set_encoder import SetEncoder

if TYPE_CHECKING:
    from rpg.config.model import ImagesCondition
    from rpg.config.peers import D2NWGParams, PDiffParams, PeerParams

# Frequencies of the time embedding; networks that are encoded at once; width of the embedding of a support set.
FREQUENCIES, ENCODED, IMAGES = 128, 8, 64


@dataclass(frozen=True)
class ZooVectors:
    """The checkpoints of a zoo: points [N, P], the conditions' numbers [N, C], permutation states [N].

    `views` [V, P] are indices that permute a network's units without a change of its function; first the identity. They
    are None for a generator that needs none. `shown` draws a support set for each of some checkpoints: it returns the
    values [B, S, K, F + 1] of the condition `images`.
    """

    points_NP: Tensor
    conditions_NC: Tensor
    states_N: Tensor
    views_VP: Tensor | None = None
    shown: Callable[[Sequence[int], torch.Generator], Tensor] | None = None


class PeerConditions(nn.Module):
    """What a peer is told: the numbers of its conditions, one after the other, and an embedding of the images.

    `sizes` maps each condition except `images` to its number of values; `width` is C, the sum with the embedding.
    """

    def __init__(self, sizes: Mapping[str, int], images: "ImagesCondition | None" = None) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        self.images = SetEncoder(images, 0, 1, IMAGES) if images else None
        self.width = sum(sizes.values()) + (IMAGES if images else 0)

    def forward(self, numbers_BC: Tensor, images_BSKF: Tensor | None = None) -> Tensor:
        """Return the conditions [B, C] of joined numbers and of the values of `images`."""
        if self.images is None:
            return numbers_BC
        assert images_BSKF is not None
        return torch.cat([numbers_BC, self.images(images_BSKF.to(numbers_BC.device))[:, 0]], dim=1)

    def joined(self, values: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Return the conditions [B, C] of the values by name, with device and number type of `like`."""
        numbers_BC = torch.cat([values[name] for name in self.sizes], dim=1).to(like)
        return self(numbers_BC, values.get("images"))


class Peer(nn.Module):
    """A generator in RPG's place.

    `padding_LD` is True for entries of the L tokens of width D that hold no weight. The training has phases, each with
    its own loss; a parameter without a gradient stays.
    """

    def __init__(self, params: "PeerParams", padding_LD: Tensor, conditions: PeerConditions) -> None:
        super().__init__()
        self.params = params
        (self.length, self.width), self.weights = padding_LD.shape, int((~padding_LD).sum())
        self.conditions = conditions
        self.register_buffer("padding_LD", padding_LD, persistent=False)
        # A model without parameters has nothing that tells its device and number type.
        self.anchor = nn.Parameter(torch.zeros(1))

    padding_LD: Tensor

    @property
    def shares(self) -> Sequence[float]:
        """The share of the steps of each phase of the training; empty if nothing is trained."""
        return (1.0,)

    def units(self) -> list[nn.Module]:
        """Return the parts to compile: none, because peers are small."""
        return []

    def recompute(self) -> None:
        """Ignore activation checkpointing."""

    def fit(self, zoo: ZooVectors) -> None:
        """Compute all that needs no gradient from the whole zoo, before the first step."""

    def begin(self, phase: int, zoo: ZooVectors) -> None:
        """Prepare a phase, before its first step."""

    def loss(
        self, phase: int, points_BP: Tensor, conditions_BC: Tensor, views_BP: Tensor | None, draw: torch.Generator
    ) -> Tensor:
        """Return the loss of B networks; `views_BP` [B, 2, P] holds the indices of two views, if the zoo has views."""
        raise NotImplementedError

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Return the points [B, P] of B new networks; each has its own generator of random numbers."""
        raise NotImplementedError

    def tokens_of(self, points_BP: Tensor) -> Tensor:
        """Return the tokens [B, L, D] of points; the padding is 0."""
        tokens_BLD = points_BP.new_zeros(len(points_BP), self.length, self.width)
        tokens_BLD[:, ~self.padding_LD] = points_BP
        return tokens_BLD

    @torch.inference_mode()
    def sample(
        self,
        values: Mapping[str, Tensor],
        *,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
        **_: Any,
    ) -> Tensor:
        """Sample tokens [B, L, D], on the CPU, of B new networks.

        `values` maps the name of a condition to [B, C]. The sampler and its steps are those of the peer's own block.
        """
        return self.tokens_of(self.points(values, generators, temperature)).cpu()


class LatentDiffusion(Peer):
    """An autoencoder, and then a diffusion of its latents [B, *S], standardized by `center` [*S] and `scale`.

    The diffusion predicts the noise (DDPM). The first phase trains the autoencoder, the second one the denoiser.
    """

    center: Tensor
    scale: Tensor
    params: "PDiffParams | D2NWGParams"

    def __init__(
        self,
        params: "PDiffParams | D2NWGParams",
        padding_LD: Tensor,
        conditions: PeerConditions,
        shape: Sequence[int],
    ) -> None:
        super().__init__(params, padding_LD, conditions)
        self.register_buffer("center", torch.zeros(*shape))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, points_BP: Tensor) -> Tensor:
        """Return the latents [B, *S] of points."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Return the points [B, P] of latents [B, *S]."""
        raise NotImplementedError

    def predicted(self, noisy: Tensor, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the predicted noise [B, *S]."""
        raise NotImplementedError

    def reconstruction(self, points_BP: Tensor, draw: torch.Generator) -> Tensor:
        """Return the loss of the autoencoder."""
        raise NotImplementedError

    @property
    def shares(self) -> Sequence[float]:
        """The autoencoder's share, and the denoiser's."""
        return (self.params.autoencoder, 1 - self.params.autoencoder)

    def begin(self, phase: int, zoo: ZooVectors) -> None:
        """Standardize the latents of the zoo before the denoiser learns."""
        if phase:
            with torch.no_grad():
                latents = torch.cat([self.encode(part.to(self.anchor)) for part in zoo.points_NP.split(ENCODED)])
                self.center.copy_(latents.mean(0))
                self.scale.copy_((latents - self.center).std())

    def loss(
        self, phase: int, points_BP: Tensor, conditions_BC: Tensor, views_BP: Tensor | None, draw: torch.Generator
    ) -> Tensor:
        """Return the loss of the autoencoder, or the mean squared error of the predicted noise."""
        if phase == 0:
            return self.reconstruction(points_BP, draw)
        with torch.no_grad():
            x0 = (self.encode(points_BP) - self.center) / self.scale
        t_B = torch.randint(diffusion.T, (len(x0),), generator=draw).to(x0.device)
        epsilon = noise_like(x0, draw)
        # `add_noise` reads one time for each vector.
        t = t_B.view(-1, *[1] * (x0.ndim - 2))
        return functional.mse_loss(self.predicted(diffusion.add_noise(x0, epsilon, t), t_B, conditions_BC), epsilon)

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Denoise latents, and decode them."""
        conditions_BC = self.conditions.joined(values, self.anchor)

        def drawn() -> Tensor:
            return temperature * noise(draws, self.center.shape, self.center)

        latents = diffusion.sample(
            lambda x, t: self.predicted(x, t.flatten().expand(len(x)), conditions_BC),
            drawn(),
            target="epsilon",
            solver=self.params.solver,
            steps=self.params.steps,
            noise=lambda _: drawn(),
        )
        return self.decode(latents * self.scale + self.center)


def noise_like(like: Tensor, draw: torch.Generator) -> Tensor:
    """Return standard normal noise of the same shape, drawn on the CPU."""
    return torch.randn(like.shape, generator=draw).to(like)


def noise(draws: Sequence[torch.Generator], shape: Sequence[int], like: Tensor) -> Tensor:
    """Return standard normal noise [B, *shape], drawn on the CPU, each row by its own generator."""
    return torch.stack([torch.randn(*shape, generator=draw) for draw in draws]).to(like)


class ConditionEmbedding(nn.Module):
    """Embed diffusion times [B] and conditions [B, C] together, as [B, width]."""

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Sequential(nn.Linear(conditions, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the sum of both embeddings [B, width]."""
        return self.time(time_embedding(t_B, FREQUENCIES)) + self.condition(conditions_BC)


class ResidualMLP(nn.Module):
    """A residual MLP on vectors [B, n]; the embedding [B, width] scales and shifts the input of each block."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(blocks))
        self.scales = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)) for _ in range(blocks)
        )
        self.out = nn.Linear(width, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_Bn: Tensor, embedded_BW: Tensor) -> Tensor:
        """Return [B, outputs]."""
        h_BW = self.into(x_Bn)
        for norm, scale, block in zip(self.norms, self.scales, self.blocks, strict=True):
            factor_BW, shift_BW = scale(embedded_BW).chunk(2, dim=1)
            h_BW = h_BW + block(norm(h_BW) * (1 + factor_BW) + shift_BW)
        return self.out(h_BW)
