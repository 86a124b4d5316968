"""The `model` and `diffusion` blocks: RPG's architecture, its conditions and its prediction target."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from rpg.blocks import Block, Count

Reach = Annotated[
    Literal["all", "each", "head"],
    Field(description="one vector for all tokens, one for each, or one for the tokens of the network's head alone"),
]


class PermutationStateCondition(Block):
    """Which of the zoo's training runs (seeds) the weights come from, or which mixture of them."""

    kind: Literal["permutation_state"]
    reach: Reach
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="share of the checkpoints whose state is not told in training")
    ]


class TaskCodeCondition(Block):
    """The task code, through Linear-SiLU-Linear, or one Linear if `hidden` is null."""

    kind: Literal["task_code"]
    hidden: Count | None
    reach: Reach


class UnconditionalCondition(Block):
    """Nothing is asked for: one learned vector for all networks."""

    kind: Literal["unconditional"]


class VectorCondition(Block):
    """Numbers that the zoo's manifests hold of each checkpoint, say its accuracy, through Linear-SiLU-Linear."""

    kind: Literal["vector"]
    field: Annotated[str, Field(description="key of a checkpoint's manifest entry: a number, or a list of numbers")]
    hidden: Count | None
    reach: Reach


Condition = Annotated[
    PermutationStateCondition | TaskCodeCondition | VectorCondition | UnconditionalCondition,
    Field(discriminator="kind", title="Condition"),
]


Conditions = Annotated[list[Condition], Field(min_length=1, description="what the caller can ask for")]


class PaperModel(Block):
    """The published architecture, exactly: two plain Mamba2 blocks and the convolutional denoiser.

    The second block is published at the width D of a token; with `prototype_projection` it has the width M, and one
    Linear makes the prototype of it.
    """

    flavor: Literal["paper"]
    conditions: Conditions
    width: Annotated[int, Field(ge=4, multiple_of=4, description="M, width of the first Mamba2 block")]
    state_width: Count
    head_width: Count
    expand: Count
    channels: Annotated[list[Count], Field(min_length=5)]
    kernel: Annotated[int, Field(ge=1)]
    prototype_projection: bool

    @model_validator(mode="after")
    def _skips_fit(self) -> "PaperModel":
        odd = len(self.channels) % 2 == 1
        if not odd or self.channels != self.channels[::-1] or self.channels[0] != 1:
            raise ValueError("channels: must start with 1, read the same backwards and be odd in number")
        return self


class ResidualModel(Block):
    """The default architecture: pre-norm residual blocks conditioned in each, and an MLP denoiser.

    `recurrent` is what a block does with the tokens: a Mamba2, an LSTM, a Transformer layer, or, with none of them, an
    MLP on each token alone. `positions` are added up. Without a denoiser the prototype is the answer, through one
    linear layer, and there is nothing to sample.

    `start: mean` suits zoos whose networks were all fine-tuned from one: nobody has to learn what they share.
    """

    flavor: Literal["residual"]
    conditions: Conditions
    recurrent: Literal["mamba2", "lstm", "transformer", "none"]
    positions: Annotated[
        list[Literal["1d", "2d", "learned"]],
        Field(description="what tells tokens apart: index, (index in tensor, tensor), a learned vector for each"),
    ]
    width: Annotated[int, Field(ge=4, multiple_of=4, description="M, width of the recurrent model")]
    blocks: Count
    state_width: Count
    head_width: Count
    expand: Count
    denoiser: Literal["mlp", "none"]
    hidden: Annotated[int, Field(ge=1, description="width of the denoiser's residual blocks")]
    denoiser_blocks: Count
    start: Annotated[
        Literal["zero", "mean"],
        Field(description="what the answer is added to: with mean the zoo's mean, in units of each tensor's deviation"),
    ]


class Diffusion(Block):
    """The forward process (T = 1000 steps, β linear from 1e-4 to 0.02, as published) and what the network predicts."""

    target: Literal["epsilon", "x0", "v"]


Model = Annotated[PaperModel | ResidualModel, Field(discriminator="flavor")]
