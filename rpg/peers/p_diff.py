"""p-diff (Wang et al. 2024, arXiv 2402.13144): an autoencoder of the flat network, then a diffusion of its latents.

The autoencoder has 1-D convolutions only. Its training adds noise to the network and to the latent. Then the
autoencoder stays, and a U-Net of 1-D convolutions learns to predict the noise in the latents (DDPM). The published
model has no condition; here an embedding of the conditions is added to that of the diffusion time.

B networks, P weights, c channels and n places of the latent.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.peers.base import ConditionEmbedding, LatentDiffusion, PeerConditions, noise_like

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


class PDiff(LatentDiffusion):
    """The autoencoder, and the denoiser of its latents [B, c, n]."""

    params: "PDiffParams"

    def __init__(self, params: "PDiffParams", padding_LD: Tensor, conditions: PeerConditions) -> None:
        self.step = params.stride ** len(params.channels)
        places = -(-int((~padding_LD).sum()) // self.step)
        super().__init__(params, padding_LD, conditions, (params.channels[-1], places))
        self.autoencoder = Autoencoder(params.channels, params.kernel, params.stride)
        self.denoiser = UNet(params.channels[-1], params.denoiser, conditions.width, params.kernel)

    def encode(self, points_BP: Tensor) -> Tensor:
        """Return the latents [B, c, n]."""
        padded_BP = functional.pad(points_BP, (0, -points_BP.shape[1] % self.step))
        return self.autoencoder.encoder(padded_BP.unsqueeze(1))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the points [B, P]."""
        return self.autoencoder.decoder(latents).squeeze(1)[:, : self.weights]

    def reconstruction(self, points_BP: Tensor, draw: torch.Generator) -> Tensor:
        """Return the mean squared error of networks that are encoded and decoded with noise."""
        latents = self.encode(points_BP + self.params.input_noise * noise_like(points_BP, draw))
        decoded_BP = self.decode(latents + self.params.latent_noise * noise_like(latents, draw))
        return functional.mse_loss(decoded_BP, points_BP)

    def predicted(self, noisy: Tensor, t_B: Tensor, conditions_BC: Tensor) -> Tensor:
        """Return the predicted noise [B, c, n]."""
        return self.denoiser(noisy, t_B, conditions_BC)
