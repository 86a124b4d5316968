"""The block `model.generator`: another generator in RPG's place, to compare RPG with.

Each kind is a module of `rpg/peers/`, written from its paper.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rpg.blocks import Block, Count, Positive, Share

Channels = Annotated[list[Count], Field(min_length=2)]


class PeerParams(Block):
    """What all peers have in common.

    The zoo's weights are normalized as RPG's tokens are. A peer is told the conditions in `model.conditions`.
    """

    align: Annotated[
        bool,
        Field(description="whether the units of each training run are first matched with those of the first run"),
    ]
    recount: Annotated[
        bool,
        Field(description="whether the samples' BatchNorm statistics are counted again on training images"),
    ]


class GaussianParams(PeerParams):
    """A Gaussian of each weight: the mean and standard deviation over the zoo, or over a permutation state."""

    kind: Literal["gaussian"]


class PDiffParams(PeerParams):
    """p-diff (arXiv 2402.13144): an autoencoder of 1-D convolutions over the flat network, then a latent DDPM."""

    kind: Literal["p_diff"]
    channels: Annotated[
        Channels, Field(description="channels after each convolution of the encoder; the last are the latent's")
    ]
    kernel: Annotated[int, Field(ge=3, description="width of each convolution's kernel; odd")]
    stride: Annotated[int, Field(ge=2, description="stride of each convolution of the autoencoder")]
    denoiser: Annotated[Channels, Field(description="channels of the latent denoiser's U-Net, from the outside in")]
    input_noise: Annotated[float, Field(ge=0, description="standard deviation of the noise on the encoder's input")]
    latent_noise: Annotated[float, Field(ge=0, description="standard deviation of the noise on the decoder's input")]
    autoencoder: Annotated[Share, Field(description="share of the training's steps that train the autoencoder")]
    solver: Literal["ddpm", "ddim"]
    steps: Annotated[int, Field(ge=1, le=1000, description="steps of the sampler")]

    @model_validator(mode="after")
    def _kernel_fits(self) -> "PDiffParams":
        if self.kernel % 2 == 0 or self.kernel < self.stride:
            raise ValueError("kernel: must be odd and not below stride")
        return self


class SANEParams(PeerParams):
    """SANE (arXiv 2406.09997): a Transformer autoencoder of token sequences, sampled around example networks.

    The loss is (1 - `contrast`) · reconstruction + `contrast` · NT-Xent between each network and a permuted view of it.
    A kernel density over the latent tokens of the zoo's checkpoints, or of those of a permutation state, draws each
    token on its own.
    """

    kind: Literal["sane"]
    width: Annotated[int, Field(ge=8, multiple_of=8, description="width of the Transformer")]
    blocks: Annotated[int, Field(ge=1, description="number of blocks of the encoder, and of the decoder")]
    heads: Count
    latent: Annotated[int, Field(ge=1, description="width of a latent token")]
    contrast: Annotated[float, Field(ge=0, le=1, description="weight of the contrastive loss")]
    temperature: Annotated[Positive, Field(description="temperature of the contrastive loss")]
    views: Annotated[int, Field(ge=1, description="number of random permutations to draw views from")]
    bandwidth: Annotated[Positive, Field(description="standard deviation of the kernel, as a share of a latent's own")]
    candidates: Annotated[
        int, Field(ge=1, description="networks drawn for each that is kept; training images decide. 1 keeps all")
    ]
    rounds: Annotated[
        int,
        Field(
            ge=1,
            description="rounds of selection, if there are candidates; the networks kept are the next round's examples",
        ),
    ]


class FlowParams(PeerParams):
    """Flow matching of weights (DeepWeightFlow, arXiv 2601.05052), from a narrow Gaussian to the zoo."""

    kind: Literal["flow"]
    components: Annotated[
        int | None, Field(ge=1, description="number of principal components; null takes the whole vector")
    ]
    hidden: Annotated[int, Field(ge=8, description="width of the velocity's MLP")]
    blocks: Annotated[int, Field(ge=1, description="number of residual blocks of the MLP")]
    source: Annotated[Positive, Field(description="standard deviation of the source, in the zoo's own")]
    path: Annotated[float, Field(ge=0, description="standard deviation of the noise on the path, in the zoo's own")]
    steps: Annotated[int, Field(ge=1, description="steps of the Runge-Kutta method of fourth order")]


class D2NWGParams(PeerParams):
    """D2NWG (arXiv 2402.18153): a VAE of chunks of weights, then a latent diffusion with a data-set embedding."""

    kind: Literal["d2nwg"]
    hidden: Annotated[int, Field(ge=8, description="width of the VAE's encoder and decoder")]
    latent: Annotated[int, Field(ge=1, description="width of a chunk's latent")]
    kl: Annotated[float, Field(ge=0, description="weight of the VAE's Kullback-Leibler divergence")]
    width: Annotated[int, Field(ge=8, description="width of the denoiser's MLP")]
    blocks: Annotated[int, Field(ge=1, description="number of residual blocks of the denoiser")]
    autoencoder: Annotated[Share, Field(description="share of the training's steps that train the VAE")]
    solver: Literal["ddpm", "ddim"]
    steps: Annotated[int, Field(ge=1, le=1000, description="steps of the sampler")]


AnyPeer = Annotated[
    GaussianParams | PDiffParams | SANEParams | FlowParams | D2NWGParams, Field(discriminator="kind", title="Generator")
]
