"""The blocks `train`, `tune` and `hypernetwork`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rpg.blocks import Betas, Block, Count, Positive, Precision, Seeds, Share, absent
from rpg.config.model import Start


class Optimization(Block):
    """AdamW with warm-up, cosine schedule, optional gradient clipping and an EMA of the weights.

    Two options save GPU memory. `adamw8bit` stores the gradient moments in 8 bits (Dettmers et al. 2021).
    `checkpointing` recomputes activations in the backward pass instead of storing them.
    """

    seed: Annotated[int, Field(ge=0)]
    steps: Count
    learning_rate: Positive
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0)]
    optimizer: Literal["adamw", "adamw8bit"]
    betas: Betas
    gradient_clip: Annotated[
        float | None, Field(gt=0, description="maximum norm of the gradient; null (published) does not clip")
    ]
    precision: Precision
    checkpointing: Annotated[
        bool, Field(description="whether the backward pass recomputes activations instead of storing them")
    ]
    ema: Share
    state_every: Annotated[int, Field(ge=10, multiple_of=10, description="steps between saves of the training state")]


Times = Annotated[
    int | None,
    Field(
        ge=1, description="number of evenly spread diffusion times per step; null (published) draws one for each token"
    ),
]


class Train(Optimization):
    """Training of RPG on the tokens of the zoo.

    With `steps: 0`, RPG learns in its tuning alone, and tuning starts from a new RPG.
    """

    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1, description="B, checkpoints per step")]
    diffusion_batch: Annotated[int, Field(ge=1, description="random tokens, out of B·L, in the loss of each step")]
    times: Times
    draws: Annotated[int, Field(ge=1, description="diffusion times and noises per token in the loss; published is 1")]
    sharded: Annotated[
        bool,
        Field(description="whether to split weights, gradients and optimizer state over the processes"),
    ]


class TaskLoss(Optimization):
    """Training on the function of generated networks, on training images.

    Each step draws (state, code) pairs of the zoo. `loss: labels` is the generated networks' task loss. `loss: outputs`
    is their Kullback-Leibler divergence from the outputs of the zoo's networks for the same pairs: it reads no labels.
    """

    networks: Count
    absent: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            exclude_if=lambda share: share == 0,
            description="share of the steps whose prompts and losses leave out random classes; for images",
        ),
    ] = 0.0
    images: Annotated[int, Field(ge=1, description="training images per step, the same for all networks")]
    loss: Annotated[
        Literal["labels", "outputs"],
        Field(description="what the generated networks learn: labels, or the outputs of the zoo's networks"),
    ]
    statistics: Annotated[
        float | None,
        Field(
            ge=0,
            description="null: the networks use the BatchNorm statistics that were generated with them; a number: they"
            " use those of the step's images, and the loss has this weight for the generated ones' distance from these",
        ),
    ]


class Hypernetwork(TaskLoss):
    """Training of RPG's network on the task loss alone, as a baseline.

    It generates the networks of a step at once from noise. No loss compares them with a checkpoint.
    """

    start: Annotated[
        Start,
        Field(description="the point that predictions start from, as in `model.start`"),
    ]


class Tune(TaskLoss):
    """Fine-tuning of a trained RPG on the task loss of its generated networks, on training images.

    `Tune` works like `Hypernetwork`, with two additions. It generates the first half of a step's networks from pure
    noise. It generates the other half from the same tokens with noise at random diffusion times, so that the
    fine-tuning covers every step of a sampler. It also adds `diffusion` times the diffusion loss on the zoo's
    checkpoints of the same pairs.

    The share `between` of the networks comes from no run of the zoo: their conditions lie between the permutation
    states of two runs.

    `loss: scores` trains the networks to have the score that the condition `validation_<metric>` asks for.
    """

    loss: Annotated[  # type: ignore[assignment]
        Literal["labels", "outputs", "scores"],
        Field(description="what the generated networks learn: labels, outputs of the zoo's networks, or wanted scores"),
    ]
    exchanged: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            exclude_if=absent,
            description="share of networks with a random state and the vectors of any checkpoint; needs loss scores",
        ),
    ] = None
    own_vectors: Annotated[
        Seeds | None, Field(exclude_if=absent, description="seeds whose states `exchanged` leaves out")
    ] = None

    networks: Annotated[int, Field(ge=2, multiple_of=2)]
    diffusion_batch: Annotated[int, Field(ge=1, description="random tokens in the diffusion loss of each step")]
    times: Times
    diffusion: Annotated[float, Field(ge=0, description="weight of the diffusion loss")]
    between: Annotated[float, Field(ge=0, le=1, description="share of networks between two permutation states")]

    @model_validator(mode="after")
    def _exchange_fits(self) -> "Tune":
        if self.exchanged and self.loss != "scores":
            raise ValueError("exchanged: needs loss scores, because no checkpoint has the exchanged vectors")
        if self.own_vectors and not self.exchanged:
            raise ValueError("own_vectors: needs exchanged")
        return self
