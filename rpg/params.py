"""Typed, frozen configuration: the only reader of params.yaml.

Every scientific choice stands in params.yaml; nothing here has a default, so a block can be read without this file.
The JSON schema in workflow/schemas/ is `rpg schema` of the classes below.
"""

import difflib
import json
import re
from collections import Counter
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    model_validator,
)

from rpg import codes
from rpg.errors import UserError

PARAMS_FILE = Path("params.yaml")
# DVC leaves keys of these names out of its run-cache, so it would bring back old results after a change to one.
FORBIDDEN_KEYS = ("size", "nfiles")
# Characters and values that the file may have with its aliases written out, which can be many more than stand in it.
MOST_WRITTEN_OUT = 10_000_000
# Keys that one block may inherit by merges (`<<`).
MOST_MERGED = 10_000

Count = Annotated[int, Field(ge=1)]


def _differ(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed stands there twice")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_differ)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Betas = Annotated[
    list[Share],
    Field(min_length=2, max_length=2, description="β₁ and β₂ of Adam; few steps need shorter memories than the usual"),
]
Revision = Annotated[
    str, Field(pattern="^[0-9a-f]{40}$", description="the commit to take what is named beside it of, on the hub")
]
Precision = Annotated[
    Literal["bfloat16", "float32"],
    Field(description="of matrix products, by torch's autocast, where the processor has units for it"),
]


class Block(BaseModel):
    """A block of params.yaml: immutable, without unknown keys, without conversions between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Network(Block):
    """A source network as `timm.create_model(name, **arguments)`."""

    # A colon would make timm fetch a network from a hub.
    name: Annotated[str, Field(pattern=r"^[\w.]+$")]
    arguments: dict[str, Any]

    @model_validator(mode="after")
    def _from_scratch(self) -> "Network":
        for key in self.arguments:
            if key == "checkpoint_path" or key.startswith("pretrained"):
                raise ValueError(f"arguments: {key} would load weights; the zoo's networks start from their seed")
        return self


class ClassificationTask(Block):
    """Image classification with a timm network; the metric is top-1 accuracy in percent."""

    kind: Literal["classification"]
    data: Literal["digits", "cifar10"]
    resolution: Annotated[int, Field(ge=1, description="images are resized to this many pixels each way")]
    network: Network


class TaskCodes(Block):
    """One binary task per code: tell the classes whose bit is 1 from the rest; top-1 accuracy in percent.

    A code is a whole number whose ten binary digits are the bits, the first digit being class 0. The zoo learns
    `seen` codes, drawn by `draw`, and the `held_out` ones, which only the scores look at.
    """

    kind: Literal["task_codes"]
    data: Literal["digits", "cifar10"]
    resolution: Annotated[int, Field(ge=1, description="images are resized to this many pixels each way")]
    network: Network
    seen: Annotated[int, Field(ge=2, description="codes that RPG learns from")]
    draw: Annotated[int, Field(ge=0, description="seed of the draw of the seen codes")]
    held_out: Annotated[list[Annotated[int, Field(ge=1, le=1022)]], Field(min_length=1)]
    held_out_pairs: Annotated[
        int, Field(ge=0, description="seen codes of which the run of one seed is held out, too; needs several seeds")
    ]

    @model_validator(mode="after")
    def _codes_fit(self) -> "TaskCodes":
        if len(set(self.held_out)) != len(self.held_out):
            raise ValueError("held_out: a code stands there twice")
        self.seen_codes()
        if self.held_out_pairs > self.seen:
            raise ValueError(f"held_out_pairs: only {self.seen} codes are seen")
        return self

    def held_out_codes(self) -> list[str]:
        """The held-out codes as text, in the order of `held_out`."""
        return [codes.of_number(number) for number in self.held_out]

    def seen_codes(self) -> list[str]:
        """The seen codes as text, in the order of their draw."""
        return codes.draw_seen(self.seen, self.draw, self.held_out_codes())


class FineTuningTask(Block):
    """Image classification with a timm network that was trained elsewhere; the metric is top-1 accuracy in percent.

    Resolution, normalisation and transforms are timm's own for the network's weights (`resolve_data_config`).
    """

    kind: Literal["fine_tuning"]
    data: Literal["imagenet", "cifar10"]
    network: Network
    validation: Annotated[
        int, Field(ge=1, description="training images, drawn evenly over the classes, which no network learns from")
    ]
    workers: Annotated[int, Field(ge=0, description="processes that read images; any number gives the same images")]


Overrides = Annotated[
    dict[str, Any], Field(description="what is changed in the config: {optim_wrapper.optimizer.lr: 0.001}")
]


class OpenMMLabTask(Block):
    """What segmentation and detection have in common: a config of OpenMMLab's toolboxes, and what is changed in it."""

    config: Annotated[
        str,
        Field(description="a file, or a config that the toolbox ships: mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"),
    ]
    overrides: Overrides
    validation: Annotated[
        int, Field(ge=1, description="last images of the training folder, which no network learns from")
    ]


class SegmentationTask(OpenMMLabTask):
    """Semantic segmentation with a network of mmsegmentation's; the metric is mIoU in percent."""

    kind: Literal["segmentation"]
    data: Literal["scenes", "ade20k"]


class DetectionTask(OpenMMLabTask):
    """Object detection and instance segmentation with a network of mmdetection's; the metric is bbox mAP in percent."""

    kind: Literal["detection"]
    data: Literal["scenes", "coco"]


class Adapter(Block):
    """What changes a language model: low-rank pairs (Hu et al. 2021), in DoRA with a magnitude for each output."""

    kind: Literal["dora", "lora"]
    rank: Annotated[int, Field(ge=1, description="r")]
    alpha: Annotated[int, Field(ge=1, description="a pair's product counts alpha / r")]
    targets: Annotated[list[str], Field(min_length=1, description="modules with a pair of their own: q_proj, up_proj")]


class CommonsenseTask(Block):
    """Commonsense questions to a language model with an adapter; the metric is the mean accuracy over the subtasks.

    `new_tokens` and `beams` are how an answer is generated. `revision` is of a model on the hub, and null of a folder.
    """

    kind: Literal["commonsense"]
    data: Literal["facts", "commonsense"]
    model: Annotated[str, Field(description="the language model: a folder, or its name on the Hugging Face hub")]
    revision: Revision | None
    adapter: Adapter
    training: Annotated[list[str], Field(min_length=1, description="files of questions to learn from, below the data")]
    validation: Annotated[int, Field(ge=1, description="last of these questions, which no adapter learns from")]
    subtasks: Annotated[
        list[
            Literal[
                "boolq",
                "piqa",
                "social_i_qa",
                "hellaswag",
                "winogrande",
                "ARC-Easy",
                "ARC-Challenge",
                "openbookqa",
            ]
        ],
        Field(min_length=1),
    ]
    batch: Annotated[int, Field(ge=1, description="questions that are answered at once")]
    beams: Count
    new_tokens: Count


ImportPath = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$")]


class CustomTask(Block):
    """Networks of your own, which were trained elsewhere, or adapters of peft's; the score is your own, too.

    Functions are named as `package.module:function`, looked up from the folder of params.yaml first.
    """

    kind: Literal["custom"]
    build: Annotated[ImportPath, Field(description="build() gives the torch.nn.Module that the checkpoints belong to")]
    score: Annotated[
        ImportPath,
        Field(description="score(network, split), split validation or test, gives a percentage or (answers, targets)"),
    ]
    metric: Annotated[str, Field(pattern=r"^\w[\w .-]*$", description="what the score is called")]


AnyTask = (
    ClassificationTask | TaskCodes | FineTuningTask | SegmentationTask | DetectionTask | CommonsenseTask | CustomTask
)
Task = Annotated[AnyTask, Field(discriminator="kind")]


class Run(Block):
    """One training run of the zoo: the seed of its weights and data order, and its task if there are several.

    A run that is held out is trained and scored, and RPG never learns from it.
    """

    seed: int
    code: str | None
    held_out: bool

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f", code {self.code}" if self.code else "")


class Base(Block):
    """Networks that learn to tell all classes apart; the zoo's runs start from their weights, with a new head.

    One seed is one network for the whole zoo; as many as the zoo's seeds give each of those a network of its own, hence
    an initialisation of its own. Without this block each run starts from its seed's own random weights.
    """

    seeds: Seeds
    steps: Count
    batch: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    shift: Annotated[int, Field(ge=0, description="random translation of a training image, in pixels each way")]


class Zoo(Block):
    """How the source networks are trained (AdamW, one cycle, then constant) and which of their states are kept.

    Each seed trains for `steps` steps along a one-cycle schedule up to `learning_rate`, then goes on at
    `final_learning_rate` and is saved `saves` times, every `save_every` steps. With task codes there is one such run
    for each seed and code; `together` runs are computed at once, which is faster and takes more memory.
    """

    seeds: Seeds
    runs_per_shard: Count
    together: Count
    steps: Count
    head_steps: Annotated[int, Field(ge=0, description="first steps, in which only the head learns")]
    focal_gamma: Annotated[float, Field(ge=0, description="exponent of the focal loss; 0 is cross-entropy")]
    batch: Count
    learning_rate: Positive
    final_learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Share
    shift: Annotated[int, Field(ge=0, description="random translation of a training image, in pixels each way")]
    saves: Count
    save_every: Count


class OneByOne(Block):
    """A zoo whose runs are not computed at once."""

    @property
    def together(self) -> int:
        """Runs that are computed at once."""
        return 1


class PretrainedBase(Block):
    """Weights of a timm network that was trained elsewhere; the zoo's runs start from them.

    `revision` is of those from the hub, and null of a file.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1)]
    weights: Annotated[
        str, Field(description="'timm' for those that timm names, from the Hugging Face hub, or a file of a state dict")
    ]
    revision: Revision | None
    top1: Annotated[
        float | None,
        Field(ge=0, le=100, description="what was published of them, in percent on the test split; it is checked"),
    ]

    @model_validator(mode="after")
    def _of_the_hub(self) -> "PretrainedBase":
        if self.revision and self.weights != "timm":
            raise ValueError("revision: must be null; weights is a file")
        return self


class FineTuningZoo(OneByOne):
    """How the source networks are fine-tuned (AdamW, one learning rate) and which of their states are kept.

    Each seed trains for `steps` steps, then goes on and is saved `saves` times, every `save_every` steps.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    batch: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    precision: Precision


class RunnerBase(Block):
    """Networks that the zoo's runs start from, trained by mmengine's Runner as the task's config says.

    One seed is one network for the whole zoo; as many as the zoo's seeds give each of those a network of its own.
    """

    seeds: Seeds
    steps: Count
    overrides: Overrides


class RunnerZoo(OneByOne):
    """How mmengine's Runner trains the source networks, as the task's config says, and which of their states are kept.

    Each seed trains for `steps` steps, then goes on and is saved `saves` times, every `save_every` steps.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    overrides: Overrides


class LanguageBase(Block):
    """A small Llama that reads of a world of facts; the adapters of the zoo change it.

    transformers' Trainer trains it: AdamW, the learning rate rising over `warmup` steps, then falling to 0.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1)]
    width: Annotated[int, Field(ge=2, description="of the residual stream")]
    hidden: Annotated[int, Field(ge=1, description="width between the layers of an MLP")]
    blocks: Count
    heads: Count
    steps: Count
    batch: Annotated[int, Field(ge=1, description="sentences")]
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _heads_fit(self) -> "LanguageBase":
        if self.width % (2 * self.heads):
            raise ValueError("heads: each must have an even part of the width")
        return self


class AdapterZoo(OneByOne):
    """How transformers' Trainer trains the adapters (AdamW, as `LanguageBase`), and which of their states are kept.

    Each seed trains for `steps` steps, then goes on and is saved `saves` times, every `save_every` steps; the learning
    rate falls to 0 at the last of all.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    batch: Count
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[Share, Field(description="of what enters the low-rank pairs")]
    learn_prompt: Annotated[bool, Field(description="whether the loss is of the question's tokens, too")]
    length: Annotated[int, Field(ge=2, description="tokens of a question and its answer; what is longer is cut off")]


class GivenZoo(OneByOne):
    """Networks that were trained elsewhere: the checkpoints of each of several training runs.

    A run is a folder of checkpoints, in the natural order of their names, or a single one: a .safetensors, .pth, .pt or
    .bin file of a state dict, or an adapter's folder. Its place in the list is its permutation state.
    """

    # What stands in braces is a wildcard to Snakemake.
    runs: Annotated[
        list[Annotated[str, Field(pattern=r"^[^{}\x00-\x1f]+$")]],
        Field(min_length=1, description="a folder of checkpoints, or a single one, for each"),
    ]
    runs_per_shard: Count

    @property
    def seeds(self) -> list[int]:
        """A number for each run."""
        return list(range(len(self.runs)))

    @model_validator(mode="after")
    def _runs_differ(self) -> "GivenZoo":
        folders = [Path(run) for run in self.runs]
        if len(set(folders)) != len(folders):
            raise ValueError("runs: a folder stands there twice")
        return self


# A key of a base or zoo block which no other kind has → whose it is.
WHOSE = {
    "overrides": "runner",
    "warmup": "language",
    "weights": "fine_tuning",
    "precision": "fine_tuning",
    "runs": "given",
}


def _whose(block: Any) -> str:
    for key, whose in WHOSE.items():
        if key in block if isinstance(block, dict) else hasattr(block, key):
            return whose
    return "own"


AnyBase = Annotated[
    Annotated[Base, Tag("own")]
    | Annotated[RunnerBase, Tag("runner")]
    | Annotated[LanguageBase, Tag("language")]
    | Annotated[PretrainedBase, Tag("fine_tuning")],
    Discriminator(_whose),
    Field(title="Base"),
]
AnyZoo = Annotated[
    Annotated[Zoo, Tag("own")]
    | Annotated[RunnerZoo, Tag("runner")]
    | Annotated[AdapterZoo, Tag("language")]
    | Annotated[FineTuningZoo, Tag("fine_tuning")]
    | Annotated[GivenZoo, Tag("given")],
    Discriminator(_whose),
    Field(title="Zoo"),
]


class Tokens(Block):
    """How checkpoints become tokens."""

    width: Annotated[int, Field(ge=4, description="D, weights per token")]
    canonical: Annotated[
        bool | None,
        Field(description="whether low-rank pairs are brought into one form first; of adapters alone"),
    ] = None


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


class Sample(Block):
    """How weights are sampled: `count` networks, or as many for each task code, evenly over the permutation states.

    In addition `between` networks that lie between two of these states, drawn at random.
    """

    seed: Annotated[int, Field(ge=0)]
    count: Count
    solver: Literal["ddpm", "ddim", "dpm-solver++"]
    steps: Annotated[int, Field(ge=1, le=1000)]
    temperature: Annotated[float, Field(ge=0, description="factor on the noise that a network is made of")]
    between: Annotated[int, Field(ge=0)]
    seen: Annotated[
        int | None,
        Field(ge=1, description="of the seen task codes, so many are asked for, first those with a held-out pair"),
    ] = None


class Novelty(Block):
    """What the samples are compared with, to tell whether they are new."""

    seed: Annotated[int, Field(ge=0)]
    networks: Annotated[int, Field(ge=2, description="of originals and of samples, at most so many are measured")]
    noise: Annotated[
        list[Positive],
        Field(description="levels of the noise on a checkpoint, in standard deviations of a tensor's weights"),
    ]


class Allotment(Block):
    """What one job of a layer is given on a cluster."""

    memory_gb: Annotated[float, Field(gt=0, description="main memory at the first attempt; that of GPUs is apart")]
    hours: Annotated[float, Field(gt=0, description="until it is stopped; what trains a model goes on in another job")]


Layer = Literal[
    "base", "zoo", "collect", "tokens", "train", "tune", "hypernetwork", "sample", "score", "novelty"
]  # fmt: skip


class Experiment(Block):
    """One row of the tables: a task, its zoo, and the RPG that learns from it.

    `base`, `tune` and `hypernetwork` are layers that an experiment may lack.
    """

    task: Task
    base: AnyBase | None = None
    zoo: AnyZoo
    tokens: Tokens
    model: Model
    diffusion: Diffusion
    train: Train
    tune: Tune | None = None
    hypernetwork: Hypernetwork | None = None
    sample: Sample
    novelty: Novelty
    cluster: Annotated[
        dict[Layer, Allotment] | None,
        Field(description="for layers that take more than their rules say, on a cluster; no result depends on it"),
    ] = None

    @model_validator(mode="after")
    def _blocks_fit(self) -> "Experiment":
        kinds = [condition.kind for condition in self.model.conditions]
        runner, adapters = isinstance(self.task, OpenMMLabTask), isinstance(self.task, CommonsenseTask)
        given, fine_tuning = isinstance(self.task, CustomTask), isinstance(self.task, FineTuningTask)
        whose = (
            "runner"
            if runner
            else "language"
            if adapters
            else "fine_tuning"
            if fine_tuning
            else "given"
            if given
            else "own"
        )
        for name in ("base", "tune", "hypernetwork"):
            if given and getattr(self, name):
                raise ValueError(f"{name}: there is none for task.kind custom, whose networks are only read and scored")
        for name, block, keys in (
            ("base", self.base, ("overrides", "warmup", "weights")),
            ("zoo", self.zoo, ("overrides", "warmup", "precision", "runs")),
        ):
            for key in keys:
                if block and hasattr(block, key) != (WHOSE[key] == whose):
                    having = "lacks" if WHOSE[key] == whose else "has"
                    raise ValueError(f"{name}: {having} {key}, with task.kind {self.task.kind}")
        if fine_tuning and not self.base:
            raise ValueError("base: missing; with task.kind fine_tuning it says what weights the zoo starts from")
        # Whether the checkpoints of a custom zoo are adapters shows when they are read.
        if not given and (self.tokens.canonical is not None) != adapters:
            raise ValueError(f"tokens.canonical: {'must be given' if adapters else 'is'} for task.kind commonsense")
        if isinstance(self.task, TaskCodes):
            if not self.sample.seen or self.sample.seen > self.task.seen:
                raise ValueError(f"sample.seen: must be given, from 1 to {self.task.seen}, with task codes")
            if self.task.held_out_pairs and len(self.zoo.seeds) == 1:
                raise ValueError("task.held_out_pairs: needs two seeds or more in zoo.seeds")
        else:
            needs = "needs task.kind task_codes"
            if "task_code" in kinds:
                raise ValueError(f"model.conditions: task_code {needs}")
            if self.sample.seen:
                raise ValueError(f"sample.seen: {needs}")
            for name in ("base", "hypernetwork") if whose == "own" else ("hypernetwork",):
                if getattr(self, name):
                    raise ValueError(f"{name}: {needs}")
            if whose != "own" and self.tune:
                raise ValueError(f"tune: there is no task loss for task.kind {self.task.kind}")
        if getattr(self.model, "start", "zero") == "mean" and self.diffusion.target != "x0":
            raise ValueError("model.start: mean needs diffusion.target x0")
        if self.base and len(self.base.seeds) not in (1, len(self.zoo.seeds)):
            raise ValueError("base.seeds: must be one, or as many as zoo.seeds")
        if len(self.zoo.seeds) == 1 and (self.sample.between or (self.tune and self.tune.between)):
            raise ValueError("between: needs two seeds or more in zoo.seeds")
        if "permutation_state" not in kinds and (self.sample.between or (self.tune and self.tune.between)):
            raise ValueError("between: needs the condition permutation_state")
        return self

    def timed(self) -> list[str]:
        """The layers whose seconds are measured, first to last."""
        return ["train", *(layer for layer in ("tune", "hypernetwork") if getattr(self, layer)), "sample"]

    def runs(self) -> dict[int, Run]:
        """Index → run of the zoo. A run's index depends on nothing else that params.yaml may add."""
        if not isinstance(self.task, TaskCodes):
            return {seed: Run(seed=seed, code=None, held_out=False) for seed in sorted(self.zoo.seeds)}
        held, seen = self.task.held_out_codes(), self.task.seen_codes()
        # The k-th of the first seen codes lacks the run of the k-th seed, counted round.
        pairs = {(self.zoo.seeds[k % len(self.zoo.seeds)], seen[k]) for k in range(self.task.held_out_pairs)}
        return {
            seed * 2**codes.CLASSES + index: Run(seed=seed, code=code, held_out=code in held or (seed, code) in pairs)
            for seed in sorted(self.zoo.seeds)
            for index, code in enumerate([*held, *seen])
        }

    def shards(self) -> dict[str, list[Run]]:
        """Shard name → its runs. A run's shard depends on its index alone, so a new seed leaves other shards as is."""
        shards: dict[str, list[Run]] = {}
        for index, run in self.runs().items():
            first = index - index % self.zoo.runs_per_shard
            shards.setdefault(f"{first:04d}-{first + self.zoo.runs_per_shard - 1:04d}", []).append(run)
        return shards

    def recipe(self, runs: list[Run]) -> dict[str, Any]:
        """What the checkpoints of `runs` depend on: task and zoo block, without the runs of other shards."""
        # What is of other runs is not even written down: a zoo may have ten thousand shards, each of which asks.
        others = {"task": {"seen", "draw", "held_out", "held_out_pairs"}, "zoo": {"seeds", "runs"}}
        tree = self.model_dump(include={"task", "zoo"}, exclude=others)
        folders = self.zoo.runs if isinstance(self.zoo, GivenZoo) else None
        tree["zoo"]["runs"] = [
            {**run.model_dump(), **({"folder": folders[run.seed]} if folders else {})} for run in runs
        ]
        return tree


class File(Block):
    """A file that another one vouches for."""

    file: Annotated[str, Field(description="path beside the file that names it")]
    sha256: str


class Generator(Block):
    """rpg/config.json: what rebuilds a trained RPG without params.yaml."""

    model: Model
    diffusion: Diffusion
    width: Annotated[int, Field(description="D")]
    length: Annotated[int, Field(description="L")]
    parameters: int
    tokens: Annotated[str, Field(description="SHA-256 of the layout.json of the tokens it was trained on")]
    files: Annotated[list[File], Field(description="what was written beside it")]


NAME = r"[a-z0-9][a-z0-9_-]*"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]


class Ablation(Block):
    """One table: variants of an experiment, each with another choice or two, each trained from several seeds.

    A variant trained from one seed is an experiment of its own, named `<ablation>/<variant>-<seed>`; what it has in
    common with the experiment, or with an earlier variant, is made once.
    """

    question: str
    experiment: Annotated[str, Field(description="what the variants are variants of")]
    seeds: Annotated[Seeds, Field(description="train.seed: each trains every variant")]
    novelty: Annotated[bool, Field(description="whether the table has distances from the zoo")]
    variants: Annotated[
        dict[Name, dict[str, Any]],
        Field(min_length=1, description="what is changed: {model.recurrent: lstm}; null takes a layer away"),
    ]


class Params(Block):
    """The whole of params.yaml."""

    run: Annotated[list[str], Field(min_length=1, description="the experiments that results/tables.md covers")]
    data_root: Annotated[str | None, Field(description="folder of the data sets; the variable RPG_DATA goes first")]
    language_model: Annotated[
        str | None, Field(description="folder of a causal language model for --describe; a lexicon answers without one")
    ]
    experiments: dict[Name, Experiment]
    ablations: dict[Name, Ablation]
    _trials: dict[str, dict[str, Experiment]] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _language_models_fit(self) -> "Params":
        made = {
            f"results/{name}/base/{seed:04d}": name
            for name, experiment in self.experiments.items()
            if isinstance(experiment.base, LanguageBase)
            for seed in experiment.base.seeds
        }
        for name, experiment in self.experiments.items():
            if isinstance(experiment.task, CommonsenseTask):
                model = experiment.task.model
                if experiment.base and made.get(model) != name:
                    own = next(path for path, of in made.items() if of == name)
                    raise ValueError(f"experiments.{name}.task.model: with a base block it must be '{own}'")
                if model.startswith("results/") and model not in made:
                    known = _suggest(model, list(made))
                    raise ValueError(f"experiments.{name}.task.model: no base block makes '{model}'{known}")
        return self

    @model_validator(mode="after")
    def _make_trials(self) -> "Params":
        for name, ablation in self.ablations.items():
            if name in self.experiments:
                raise ValueError(f"ablations.{name}: there is an experiment of that name")
            if ablation.experiment not in self.experiments:
                known = _suggest(ablation.experiment, list(self.experiments))
                raise ValueError(f"ablations.{name}.experiment: no experiment '{ablation.experiment}'{known}")
            base = self.experiments[ablation.experiment]
            self._trials[name] = {
                f"{name}/{variant}-{seed}": _changed(
                    base, {**changes, "train.seed": seed}, f"{name}.variants.{variant}"
                )
                for variant, changes in ablation.variants.items()
                for seed in ablation.seeds
            }
        return self

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name, or the trial of an ablation; UserError with the known names otherwise."""
        ablation = name.partition("/")[0]
        known = self._trials[ablation] if "/" in name and ablation in self._trials else self.experiments
        if name not in known:
            raise UserError(f"{PARAMS_FILE}: no experiment '{name}'{_suggest(name, list(known))}")
        return known[name]

    def ablation(self, name: str) -> Ablation:
        """The ablation of that name; UserError with the known names otherwise."""
        if name not in self.ablations:
            raise UserError(f"{PARAMS_FILE}: no ablation '{name}'{_suggest(name, list(self.ablations))}")
        return self.ablations[name]

    def trials(self, ablation: str) -> dict[str, Experiment]:
        """The experiments that an ablation is made of, by name, variant after variant."""
        return self._trials[ablation]

    def covering(self, run: list[str], where: str) -> "Params":
        """The same with another `run`; UserError, which begins with `where`, if it names what is not there."""
        known = [*self.experiments, *self.ablations]
        for name in run:
            if name not in known:
                raise UserError(f"{where}: run: no experiment '{name}'{_suggest(name, known)}")
        if not set(run) & self.experiments.keys():
            raise UserError(f"{where}: run: must name an experiment, not ablations alone")
        if len(set(run)) != len(run):
            raise UserError(f"{where}: run: an experiment stands there twice")
        return self.model_copy(update={"run": run})

    def experiments_to_run(self) -> list[str]:
        """The experiments in `run:`."""
        return [name for name in self.run if name in self.experiments]

    def ablations_to_run(self) -> list[str]:
        """The ablations in `run:`."""
        return [name for name in self.run if name in self.ablations]


def _changed(experiment: Experiment, changes: dict[str, Any], where: str) -> Experiment:
    """`experiment` with other values at some keys, `model.recurrent`; ValueError if there is no such key or value."""
    tree = experiment.model_dump()
    for key, value in changes.items():
        *blocks, last = key.split(".")
        node = tree
        for block in blocks:
            node = node.get(block) if isinstance(node, dict) else None  # type: ignore[assignment]
        if not isinstance(node, dict) or last not in node:
            raise ValueError(f"ablations.{where}: no key '{key}' in that experiment")
        node[last] = value
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"ablations.{where}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error


class _OneKeyLoader(yaml.CSafeLoader):
    """YAML as PyYAML reads it, except that a key may not stand twice in one mapping: the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        for name, count in names.items():
            if count > 1 and id(node) not in self.merged:
                raise yaml.YAMLError(f"the key '{name}' stands twice in one block, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A merge (`<<`) puts inherited keys before the block's own, which then go first: no fault.
        if any(isinstance(key, yaml.ScalarNode) and key.value == "<<" for key, _ in node.value):
            self.merged.add(id(node))
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise yaml.YAMLError(f"too many merged keys in one block, line {node.start_mark.line + 1}")

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.merged: set[int] = set()


# A float without a point, 1e-5, is YAML 1.2; `dvc exp run -S` writes it, and PyYAML reads YAML 1.1.
_OneKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; UserError with one line for the first fault found."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run rpg in the folder that holds params.yaml") from error
    try:
        tree = yaml.load(text, _OneKeyLoader)
        if _written_out(tree, {}) > MOST_WRITTEN_OUT:
            raise yaml.YAMLError("too many aliases (`*`) of aliases")
        return check_params(tree, path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def check_params(tree: Any, path: Path = PARAMS_FILE) -> Params:
    """Params from the parsed YAML `tree`; `path` only names the file in errors."""
    if not isinstance(tree, dict):
        raise UserError(f"{path}: the top level must be a mapping with the keys {', '.join(Params.model_fields)}")
    _refuse_unusual(tree, path)
    try:
        # Through JSON: pydantic's strict mode then takes YAML's own types and nothing else.
        params = Params.model_validate_json(json.dumps(tree))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {_first_fault(error, tree)}") from error
    return params.covering(params.run, str(path))


def _written_out(node: Any, known: dict[int, int]) -> int:
    """Characters and values of a tree, those of an alias as often as it stands there; `known`: id of a block → its."""
    if not isinstance(node, (dict, list)):
        return 1 + (len(node) if isinstance(node, (str, bytes)) else 0)
    if id(node) not in known:
        # Of a block within itself, which later is refused by what it is.
        known[id(node)] = 1
        parts = [*node, *node.values()] if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def json_schema() -> str:
    """JSON schema of params.yaml, as workflow/schemas/params.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _refuse_unusual(tree: Any, path: Path, where: str = "") -> None:
    """UserError for a key that DVC ignores, and for a value that YAML knows and JSON does not."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key in FORBIDDEN_KEYS:
            raise UserError(
                f"{path}: {where}{key}: no key may be called '{key}' (DVC's run-cache ignores it); choose another name"
            )
        if isinstance(value, (dict, list)):
            _refuse_unusual(value, path, f"{where}{key}.")
        elif not (value is None or isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value))):
            text = str(value)[:60]
            raise UserError(f"{path}: {where}{key}: {text} can't stand here; write a finite number, or text in quotes")


def _first_fault(error: Exception, tree: dict[str, Any]) -> str:
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    faults = error.errors()
    fault = faults[0]
    where: list[str] = []
    node: Any = tree
    for step in fault["loc"]:
        # pydantic names the flavor of a union as one more step; it is no key of the file.
        if isinstance(node, dict) and step not in node and step != fault["loc"][-1]:
            continue
        where.append(str(step))
        # Of a name that is refused pydantic says `[key]`, in place of what stands below it.
        below = isinstance(node, dict) or (isinstance(node, list) and isinstance(step, int) and step < len(node))
        node = (node.get(step) if isinstance(node, dict) else node[step]) if below else None
    key = ".".join(where)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if fault["type"] == "missing":
        unknown = [str(other["loc"][-1]) for other in faults if other["type"] == "extra_forbidden"]
        meant = difflib.get_close_matches(where[-1], unknown, 1)
        return f"{key}: missing" + (f"; is '{meant[0]}' meant?" if meant else "")
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "json_invalid":
        return f"cannot be read ({message})"
    return f"{key}: {message[0].lower()}{message[1:]}, not {json.dumps(fault['input'])[:60]}"


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"
