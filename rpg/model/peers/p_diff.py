"""p-diff (Wang et al. 2024, arXiv 2402.13144): an autoencoder of the flat network, then a diffusion of its latents.

The autoencoder has 1-D convolutions only. Its training adds noise to the network and to the latent. Then the
autoencoder stays, and a U-Net of 1-D convolutions learns to predict the noise in the latents (DDPM). The published
model has no condition; here an embedding of the conditions is added to that of the diffusion time.

B networks, P weights, c channels and n places of the latent.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.model import diffusion
from rpg.model.peers.base import ConditionEmbedding, Peer, ZooVectors, noise

if TYPE_CHECKING:
    from rpg.config.peers import PDiffParams

# The width of the embedding of time and conditions, as a multiple of the denoiser's outer channels.
EMBEDDING = 4


class Autoencoder(nn.Module):
    """Strided convolutions of a vector [B, 1, P], and their transposes."""

    def __init__(self, channels: Sequence[int], kernel: int, stride: int) -> None:
        super().__init__()
        sizes = [1, *channels]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for index, (inner, outer) in enumerate(itertools.pairwise(sizes)):
            last = index == len(channels) - 1
            convolution = nn.Conv1d(inner, outer, kernel, stride, padding=(kernel - stride + 1) // 2)
            encoder += [convolution] if last else [convolution, nn.InstanceNorm1d(outer), nn.LeakyReLU()]
            # The output padding makes the lengths of both directions equal.
            extra = stride - kernel + 2 * ((kernel - stride + 1) // 2)
            transposed = nn.ConvTranspose1d(
                outer, inner, kernel, stride, padding=(kernel - stride + 1) // 2, output_padding=extra
            )
            decoder = [transposed, *([nn.InstanceNorm1d(inner), nn.LeakyReLU()] if index else []), *decoder]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)


class UNet(nn.Module):
    """A U-Net of 1-D convolutions on latents [B, c, n]; it halves the length between two entries of `widths`."""

    def __init__(self, channels: int, widths: Sequence[int], conditions: int, kernel: int) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(conditions, EMBEDDING * widths[0])
        self.into = nn.Conv1d(channels, widths[0], kernel, padding=kernel // 2)
        self.down = nn.ModuleList(ConvolutionBlock(width, width, EMBEDDING * widths[0], kernel) for width in widths)
        self.shrink = nn.ModuleList(nn.Conv1d(a, b, 2, 2) for a, b in itertools.pairwise(widths))
        self.middle = ConvolutionBlock(widths[-1], widths[-1], EMBEDDING * widths[0], kernel)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(b, a, 2, 2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(ConvolutionBlock(2 * width, width, EMBEDDING * widths[0], kernel) for width in widths)
        self.out = nn.Conv1d(widths[0], channels, kernel, padding=kernel // 2)

    def forward(self, x_Bcn: Tensor, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the predicted noise [B, c, n]."""
        embedded_BE = self.embedding(t_B, conditions_BC)
        length, step = x_Bcn.shape[2], 2 ** len(self.shrink)
        h = self.into(functional.pad(x_Bcn, (0, -length % step)))
        skips = []
        for index, block in enumerate(self.down):
            h = block(h, embedded_BE)
            skips.append(h)
            if index < len(self.shrink):
                h = self.shrink[index](h)
        h = self.middle(h, embedded_BE)
        for index in reversed(range(len(self.up))):
            h = self.up[index](torch.cat([h, skips[index]], dim=1), embedded_BE)
            if index:
                h = self.grow[index - 1](h)
        return self.out(h)[..., :length]


class ConvolutionBlock(nn.Module):
    """Two convolutions with a residual; the embedding [B, E] is added between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.embedded = nn.Linear(embedding, outputs)
        self.norm = nn.GroupNorm(1, outputs)
        self.second = nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2)
        self.residual = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded_BE: Tensor) -> Tensor:
        """Return [B, outputs, n]."""
        h = functional.silu(self.first(x)) + self.embedded(embedded_BE).unsqueeze(2)
        return self.residual(x) + self.second(functional.silu(self.norm(h)))


class PDiff(Peer):
    """The autoencoder, and the denoiser of its latents, which are standardized by `center` and `scale`."""

    center: Tensor
    scale: Tensor
    params: "PDiffParams"

    def __init__(self, params: "PDiffParams", padding_LD: Tensor, sizes: Mapping[str, int]) -> None:
        super().__init__(params, padding_LD, sizes)
        self.autoencoder = Autoencoder(params.channels, params.kernel, params.stride)
        self.denoiser = UNet(params.channels[-1], params.denoiser, self.conditions, params.kernel)
        self.places = -(-self.weights // params.stride ** len(params.channels))
        self.register_buffer("center", torch.zeros(params.channels[-1], self.places))
        self.register_buffer("scale", torch.ones(()))

    @property
    def shares(self) -> Sequence[float]:
        """The autoencoder's share, and the denoiser's."""
        return (self.params.autoencoder, 1 - self.params.autoencoder)

    def begin(self, phase: int, zoo: ZooVectors) -> None:
        """Standardize the latents of the zoo before the denoiser learns."""
        if phase:
            with torch.no_grad():
                latents = torch.cat([self.encode(part.to(self.anchor)) for part in zoo.points_NP.split(8)])
                self.center.copy_(latents.mean(0))
                self.scale.copy_((latents - self.center).std())

    def encode(self, points_BP: Tensor) -> Tensor:
        """Return the latents [B, c, n]."""
        step = self.params.stride ** len(self.params.channels)
        return self.autoencoder.encoder(functional.pad(points_BP, (0, -points_BP.shape[1] % step)).unsqueeze(1))

    def decode(self, latents_Bcn: Tensor) -> Tensor:
        """Return the points [B, P]."""
        return self.autoencoder.decoder(latents_Bcn).squeeze(1)[:, : self.weights]

    def loss(
        self, phase: int, points_BP: Tensor, conditions_BC: Tensor, views_BP: Tensor, draw: torch.Generator
    ) -> Tensor:
        """Return the mean squared error of the reconstruction, or of the predicted noise."""

        def drawn(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=draw).to(like)

        if phase == 0:
            latents = self.encode(points_BP + self.params.input_noise * drawn(points_BP))
            return functional.mse_loss(self.decode(latents + self.params.latent_noise * drawn(latents)), points_BP)
        with torch.no_grad():
            latents = (self.encode(points_BP) - self.center) / self.scale
        t_B = torch.randint(diffusion.T, (len(latents),), generator=draw).to(latents.device)
        epsilon = drawn(latents)
        noisy = diffusion.add_noise(latents, epsilon, t_B.unsqueeze(1))
        return functional.mse_loss(self.denoiser(noisy, t_B, conditions_BC), epsilon)

    def points(self, values: Mapping[str, Tensor], draws: Sequence[torch.Generator], temperature: float) -> Tensor:
        """Denoise latents, and decode them."""
        conditions_BC = self.joined(values)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.denoiser(x, t.flatten().expand(len(x)), conditions_BC)

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
        return self.decode(latents * self.scale + self.center)
