"""The `model` and `diffusion` blocks: independent choices of conditions, backbone, denoiser and target."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from rpg.blocks import Block, Count, absent
from rpg.config.peers import AnyPeer


class LastTokens(Block):
    """The reach of a condition that has one vector for the last tokens only."""

    last: Annotated[int, Field(ge=1, description="number of last tokens; published is 8 for the unseen tasks")]


Reach = Annotated[
    Literal["all", "each", "head"] | LastTokens,
    Field(
        description="one vector for all tokens (all), one per token (each), one for the head's tokens only (head),"
        " or one for the last tokens only ({last: 8})"
    ),
]


class PermutationStateCondition(Block):
    """The permutation state: the training run (seed) that the weights come from, or a mixture of runs."""

    kind: Literal["permutation_state"]
    reach: Reach
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="share of the training checkpoints whose state RPG does not see")
    ]


class TaskCodeCondition(Block):
    """The task code, through Linear-SiLU-Linear, or through one Linear if `hidden` is null."""

    kind: Literal["task_code"]
    hidden: Count | None
    reach: Reach


class ImagesCondition(Block):
    """A labeled support set: some images that the network should answer with no, and some with yes.

    The base network of the zoo turns each image into features: its outputs before the head, and the probabilities of
    its classes. A set encoder, which learns in `tune`, embeds them.
    """

    kind: Literal["images"]
    features: Annotated[int, Field(ge=2, description="F, the number of an image's features; `rpg zoo` names it")]
    hidden: Annotated[int, Field(ge=1, description="width of the set encoder")]
    reach: Reach


class TextCondition(Block):
    """Questions of a task, without answers: what a language model with an adapter is to be asked.

    A language model turns each question into features: the means of its hidden states over the question's tokens. A set
    encoder, which learns in `tune`, embeds them.
    """

    kind: Literal["text"]
    encoder: Annotated[
        str | None,
        Field(description="folder of a sentence encoder that transformers opens; null: the language model itself"),
    ]
    hidden_states: Annotated[
        list[Annotated[int, Field(ge=0)]],
        Field(min_length=1, description="which hidden states enter the features; 0 are the embeddings of the tokens"),
    ]
    features: Annotated[int, Field(ge=2, description="F, the number of a question's features; `rpg zoo` names it")]
    hidden: Annotated[int, Field(ge=1, description="width of the set encoder")]
    reach: Reach


class UnconditionalCondition(Block):
    """No condition: one learned vector for all networks."""

    kind: Literal["unconditional"]


class VectorCondition(Block):
    """Numbers from each checkpoint's manifest entry, such as its accuracy, through Linear-SiLU-Linear."""

    kind: Literal["vector"]
    field: Annotated[str, Field(description="key of a checkpoint's manifest entry: a number, or a list of numbers")]
    hidden: Count | None
    reach: Reach
    name: Annotated[
        str | None, Field(exclude_if=absent, description="name by which a request sets the numbers; null takes field")
    ] = None
    dropout: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            exclude_if=absent,
            description="share of the training checkpoints whose numbers RPG does not see; a request for another vector"
            " may then leave these out",
        ),
    ] = None


Condition = Annotated[
    PermutationStateCondition
    | TaskCodeCondition
    | ImagesCondition
    | TextCondition
    | VectorCondition
    | UnconditionalCondition,
    Field(discriminator="kind", title="Condition"),
]


Conditions = Annotated[
    list[Condition], Field(min_length=1, description="the inputs that control which weights RPG generates")
]


Width = Annotated[int, Field(ge=4, multiple_of=4, description="M, the width of the blocks")]
StateWidth = Annotated[int, Field(ge=1, description="N, the width of a Mamba2 state; only Mamba2 blocks have it")]
HeadWidth = Annotated[int, Field(ge=1, description="the width of a head of a Mamba2 or Transformer block")]
Expand = Annotated[
    int, Field(ge=1, description="inner width of a block as a multiple of the block's width; an LSTM ignores it")
]


class PaperBackboneConfig(Block):
    """The published backbone: two plain Mamba2 blocks.

    The backbone adds the conditions to the positions. The prototypes have the token width D. As published, the second
    block has the width D, too.
    """

    kind: Literal["paper"]
    width: Width
    state_width: StateWidth
    head_width: HeadWidth
    expand: Expand
    prototype_projection: Annotated[
        bool, Field(description="whether both blocks have width M, and a linear layer projects the prototypes to D")
    ]


class ResidualBackboneConfig(Block):
    """The default backbone: pre-norm residual blocks.

    The backbone adds the conditions to the positions. The conditions also scale and shift the input of each block.
    `kind` is the mixer of each block: a Mamba2 layer, an LSTM layer, a Transformer layer, or an MLP on each token. The
    prototypes have the width M.
    """

    kind: Literal["mamba2", "lstm", "transformer", "mlp"]
    width: Width
    positions: Annotated[
        list[Literal["1d", "2d", "learned", "described"]],
        Field(
            description="position embeddings to add up: of the token's index (1d), of the token's index in its tensor"
            " and the tensor's index (2d), a learned vector per token (learned), or an MLP of the kind, shape and place"
            " of the token's tensor (described)"
        ),
    ]
    blocks: Annotated[int, Field(ge=1, description="number of blocks")]
    state_width: StateWidth
    head_width: HeadWidth
    expand: Expand


class ConvolutionDenoiserConfig(Block):
    """The published denoiser: a U-shaped stack of 1-D convolutions along the token."""

    kind: Literal["convolution"]
    channels: Annotated[
        list[Count],
        Field(min_length=5, description="channels before the first and after each convolution; the list is symmetric"),
    ]
    kernel: Annotated[int, Field(ge=1, description="width of each convolution's kernel")]

    @model_validator(mode="after")
    def _skips_fit(self) -> "ConvolutionDenoiserConfig":
        odd = len(self.channels) % 2 == 1
        if not odd or self.channels != self.channels[::-1] or self.channels[0] != 1:
            raise ValueError("channels: must be a symmetric list of odd length that starts with 1")
        return self


class MLPDenoiserConfig(Block):
    """The default denoiser: residual blocks on the noisy token and its prototype.

    A linear skip leads from the prototype to the output.
    """

    kind: Literal["mlp"]
    hidden: Annotated[int, Field(ge=1, description="width of the residual blocks")]
    blocks: Annotated[int, Field(ge=1, description="number of residual blocks")]


class NoDenoiserConfig(Block):
    """No diffusion: one linear layer computes the token from the prototype."""

    kind: Literal["none"]


Backbone = Annotated[
    PaperBackboneConfig | ResidualBackboneConfig,
    Field(discriminator="kind", description="the network that computes the prototypes"),
]
Denoiser = Annotated[
    ConvolutionDenoiserConfig | MLPDenoiserConfig | NoDenoiserConfig,
    Field(discriminator="kind", description="the network that predicts a token from the noisy token and its prototype"),
]


Start = Literal["zero", "mean", "state_mean"]


class Model(Block):
    """RPG's architecture. Any backbone works with any denoiser.

    Use `start: mean` for a zoo whose networks are all fine-tuned from one network, and `start: state_mean` if each
    permutation state has a network of its own to start from. RPG then learns only the differences.

    `generator` puts one of RPG's rivals in its place.
    """

    conditions: Conditions
    backbone: Backbone
    denoiser: Denoiser
    start: Annotated[
        Start,
        Field(
            description="the point that predictions start from: zero, the zoo's mean, or the mean of the permutation"
            " state's checkpoints, with each tensor's standard deviation as the unit; a mean needs diffusion.target x0"
        ),
    ]
    generator: Annotated[
        AnyPeer | None,
        Field(
            exclude_if=absent,
            description="another generator in RPG's place, for a variant of an ablation; backbone, denoiser, start and"
            " the block diffusion are RPG's alone",
        ),
    ] = None

    @property
    def images(self) -> ImagesCondition | None:
        """The condition `images`, if there is one."""
        return next((condition for condition in self.conditions if condition.kind == "images"), None)

    @property
    def text(self) -> TextCondition | None:
        """The condition `text`, if there is one."""
        return next((condition for condition in self.conditions if condition.kind == "text"), None)

    def with_encoder(self, folder: str) -> "Model":
        """Return the block whose condition `text` has its sentence encoder in `folder`."""
        conditions = [
            condition.model_copy(update={"encoder": folder}) if condition.kind == "text" else condition
            for condition in self.conditions
        ]
        return self.model_copy(update={"conditions": conditions})


class Diffusion(Block):
    """The forward process and the prediction target.

    The forward process is as published: T = 1000 steps, β linear from 1e-4 to 0.02.
    """

    target: Literal["epsilon", "x0", "v"]


def _keys_of_kinds(union: Any) -> dict[str, frozenset[str]]:
    blocks: tuple[type[Block], ...] = get_args(get_args(union)[0])
    kinds = {block: get_args(block.model_fields["kind"].annotation) for block in blocks}
    return {kind: frozenset(block.model_fields) for block in blocks for kind in kinds[block]}


# Blocks whose keys depend on `kind`: path of the block → kind → keys.
KEYS_OF_KINDS: dict[tuple[str, ...], dict[str, frozenset[str]]] = {
    ("model", "backbone"): _keys_of_kinds(Backbone),
    ("model", "denoiser"): _keys_of_kinds(Denoiser),
}
