"""The blocks `train`, `tune` and `hypernetwork`."""

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from rpg.blocks import Betas, Block, Count, Positive, Precision, Share


class Optimization(Block):
    """AdamW, warm-up and cosine, gradient clipping, EMA of the weights.

    For what does not fit a GPU: `adamw8bit` keeps the moments of the gradients in 8 bits (Dettmers et al. 2021), and
    `checkpointing` computes activations anew for the backward pass, to keep few of them.
    """

    seed: Annotated[int, Field(ge=0)]
    steps: Count
    learning_rate: Positive
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    optimizer: Literal["adamw", "adamw8bit"]
    betas: Betas
    gradient_clip: Positive
    precision: Precision
    checkpointing: Annotated[
        bool, Field(description="whether activations are computed again for the backward pass, instead of kept")
    ]
    ema: Share
    state_every: Annotated[int, Field(ge=10, multiple_of=10, description="steps between saves of the state to resume")]


Times = Annotated[
    int | None,
    Field(ge=1, description="different diffusion times of a step, evenly spread; null: each token its own (published)"),
]


class Train(Optimization):
    """How RPG is trained on the tokens of the zoo."""

    batch: Annotated[int, Field(ge=1, description="B, checkpoints per step")]
    diffusion_batch: Annotated[int, Field(ge=1, description="random tokens of the B·L that enter the loss each step")]
    times: Times
    draws: Annotated[int, Field(ge=1, description="times and noise levels of each of these tokens; published is 1")]
    sharded: Annotated[
        bool,
        Field(description="whether weights, gradients and the optimizer's state are split over the processes"),
    ]


class Hypernetwork(Optimization):
    """RPG's network trained from scratch on the task loss alone, for comparison.

    Each step draws `networks` of the zoo's (state, code) pairs, generates their networks in one step from noise and
    takes the loss of their task on `images` training images.
    """

    networks: Count
    images: Annotated[int, Field(ge=1, description="training images that all networks of a step see")]


class Tune(Optimization):
    """Task-loss fine-tuning of a trained RPG: networks are generated and put to their task, on training images.

    As `Hypernetwork`, with two additions. Of the networks of a step, the first half is generated from pure noise; the
    other half from those tokens made noisy again, at random diffusion times, so that every step of a sampler meets
    what it was tuned on. And `diffusion` times the diffusion loss on the zoo's checkpoints of the same pairs is added.

    The share `between` of the networks is of no run of the zoo but lies between the permutation states of two.
    """

    networks: Annotated[int, Field(ge=2, multiple_of=2)]
    images: Annotated[int, Field(ge=1, description="training images that all networks of a step see")]
    diffusion_batch: Annotated[int, Field(ge=1, description="random tokens that enter the diffusion loss")]
    times: Times
    diffusion: Annotated[float, Field(ge=0, description="weight of the diffusion loss")]
    between: Annotated[float, Field(ge=0, le=1, description="share of networks between two permutation states")]
