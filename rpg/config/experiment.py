"""The experiment: its blocks, and the checks across blocks."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, Tag, model_validator

from rpg.blocks import PARAMS_FILE, Block, Count, Positive, absent
from rpg.config.model import Diffusion, ImagesCondition, Model
from rpg.config.prompts import AnyPromptEvaluation
from rpg.config.training import Hypernetwork, Train, Tune
from rpg.stages import OPTIONAL, STAGES, TIMED
from rpg.tasks.config import BaseConfig, Run, TaskConfig, ZooConfig
from rpg.tasks.registry import task_blocks
from rpg.utils.errors import UserError

# Settings of peft under which B · A is not the change of the weights: a parameter of many experts, whose A lists the
# ranks expert by expert and whose B lists the experts rank by rank; block-diagonal factors.
NO_PRODUCT = ("target_parameters", "use_bdlora")


class Tokens(Block):
    """How checkpoints become tokens."""

    width: Annotated[int, Field(ge=4, description="D, weights per token")]
    canonical: Annotated[
        bool | None,
        Field(description="whether low-rank pairs get their canonical form before tokenization; for adapters only"),
    ] = None
    by_channel: Annotated[
        bool | None,
        Field(
            exclude_if=absent,
            description="whether each output channel of a convolution or linear map begins with a new token, so that"
            " a number's place in its token does not depend on the network's width",
        ),
    ] = None
    only: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            exclude_if=absent,
            description="names or patterns of the tensors to generate; a sample copies the others from the last"
            " checkpoint of its run",
        ),
    ] = None

    def check_form(self, adapter: Mapping[str, Any] | None) -> None:
        """Raise UserError if `canonical` does not fit the zoo; `adapter` is its adapter_config.json, or None."""
        if (adapter is not None) != (self.canonical is not None):
            fault = (
                "only adapters have it; remove the key" if adapter is None else "missing; adapters need true or false"
            )
            raise UserError(f"{PARAMS_FILE}: tokens.canonical: {fault}")
        for key in NO_PRODUCT:
            if adapter and self.canonical and adapter.get(key):
                why = f"the adapters' {key} makes weights that no product of two matrices is; set it to false"
                raise UserError(f"{PARAMS_FILE}: tokens.canonical: {why}")


class Sample(Block):
    """How weights are sampled.

    The stage samples `count` networks, or `count` networks for each task code. It spreads them evenly over the
    permutation states. It also samples `between` networks whose conditions lie between two random permutation states.
    """

    seed: Annotated[int, Field(ge=0)]
    count: Count
    solver: Literal["ddpm", "ddim", "dpm-solver++"]
    steps: Annotated[int, Field(ge=1, le=1000)]
    temperature: Annotated[float, Field(ge=0, description="factor on all noise that the sampler draws")]
    between: Annotated[int, Field(ge=0)]
    seen: Annotated[
        int | None,
        Field(ge=1, description="number of seen task codes to sample; codes with a held-out pair come first"),
    ] = None
    images: Annotated[
        int | None,
        Field(
            ge=1,
            exclude_if=absent,
            description="training images of no, and of yes, in a prompt; for the condition images",
        ),
    ] = None
    questions: Annotated[
        int | None,
        Field(ge=1, exclude_if=absent, description="training questions in a prompt; for the condition text"),
    ] = None


class FineTune(Block):
    """Fine-tuning of networks that mix training runs, each for `steps` steps of AdamW on `images` training images."""

    steps: Count
    images: Count
    learning_rate: Positive


class Novelty(Block):
    """How the distance between samples and zoo is measured.

    With `fine_tune`, interpolations and means of training runs are also measured after training on the task loss. They
    are the fair rivals of an RPG that was tuned on this loss.
    """

    seed: Annotated[int, Field(ge=0)]
    networks: Annotated[int, Field(ge=2, description="maximum number of originals, and of samples, to measure")]
    noise: Annotated[
        list[Positive],
        Field(description="levels of noise to add to a checkpoint, in standard deviations of each tensor's weights"),
    ]
    fine_tune: FineTune | None = None


class Wanted(Block):
    """Requests for networks with wanted numbers, such as an accuracy, to compare with the numbers that they have."""

    seed: Annotated[int, Field(ge=0)]
    networks: Annotated[int, Field(ge=1, description="networks for each number and state")]
    between: Annotated[int, Field(ge=0, description="pairs of permutation states to mix")]
    requests: Annotated[
        dict[str, Annotated[list[float], Field(min_length=2)]],
        Field(min_length=1, description="name of a vector among the conditions → the numbers to ask for"),
    ]


class Allotment(Block):
    """Memory and time of one cluster job of a stage."""

    memory_gb: Annotated[float, Field(gt=0, description="main memory of the first attempt in GB, without GPU memory")]
    hours: Annotated[
        float, Field(gt=0, description="time limit in hours; an interrupted training resumes in the next job")
    ]


if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[tuple(STAGES)]


class Experiment(Block):
    """One row of the tables: a task, its zoo, and the RPG model that learns from the zoo.

    The stages base, tune and hypernetwork are optional: a stage runs if its block is present. `experiment_block`
    returns the subclass for each kind of task.
    """

    task: TaskConfig
    base: BaseConfig | None = None
    zoo: ZooConfig
    tokens: Tokens
    model: Model
    diffusion: Diffusion
    train: Train
    tune: Tune | None = None
    hypernetwork: Hypernetwork | None = None
    sample: Sample
    novelty: Novelty
    prompts: Annotated[AnyPromptEvaluation | None, Field(exclude_if=absent)] = None
    wanted: Annotated[Wanted | None, Field(exclude_if=absent)] = None
    cluster: Annotated[
        dict[StageName, Allotment] | None,
        Field(
            description="stages that need more cluster memory or time than their rules request; results stay the same"
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _stages_known(cls, tree: Any) -> Any:
        task = cls.model_fields["task"].annotation
        if isinstance(tree, dict) and isinstance(task, type) and issubclass(task, TaskConfig):
            kind = _kind(tree)
            for block in OPTIONAL:
                if tree.get(block) is not None and block not in task.optional:
                    raise ValueError(f"{block}: task.kind {kind} has no such stage; remove the block")
            if task.needs_base and tree.get("base") is None:
                raise ValueError(
                    f"base: missing; task.kind {kind} needs it to name the weights that the zoo starts from"
                )
        return tree

    @model_validator(mode="after")
    def _blocks_fit(self) -> "Experiment":
        kinds = [condition.kind for condition in self.model.conditions]
        # A custom task learns only from the files whether its checkpoints are adapters.
        if self.task.adapters is not None and (self.tokens.canonical is not None) != self.task.adapters:
            fault = "must be given with" if self.task.adapters else "is for adapters, not for"
            raise ValueError(f"tokens.canonical: {fault} task.kind {self.task.kind}")
        if not self.task.has_codes:
            if "task_code" in kinds:
                raise ValueError("model.conditions: task_code needs task.kind task_codes")
            if self.sample.seen:
                raise ValueError("sample.seen: needs task.kind task_codes")
        self._check_prompt(kinds)
        self.task.check_experiment(self)
        if self.model.generator:
            self._check_peer(self.model.generator.kind, kinds)
        for name, start in (("model", self.model.start), ("hypernetwork", getattr(self.hypernetwork, "start", "zero"))):
            if start != "zero" and self.diffusion.target != "x0":
                raise ValueError(f"{name}.start: {start} needs diffusion.target x0")
            if start == "state_mean" and "permutation_state" not in kinds:
                raise ValueError(f"{name}.start: state_mean needs the condition permutation_state")
        if self.novelty.fine_tune and "tune" not in self.task.optional:
            raise ValueError(
                f"novelty.fine_tune: task.kind {self.task.kind} has no differentiable loss; remove the block"
            )
        if not self.train.steps and not self.tune:
            raise ValueError("train.steps: 0 needs a tune block, where RPG learns instead")
        if self.base and len(self.base.seeds) not in (1, len(self.zoo.seeds)):
            raise ValueError("base.seeds: must be one, or as many as zoo.seeds")
        between = "sample" if self.sample.between else "tune" if self.tune and self.tune.between else None
        if between and len(self.zoo.seeds) == 1:
            raise ValueError(f"{between}.between: needs two seeds or more in zoo.seeds")
        if between and "permutation_state" not in kinds:
            raise ValueError(f"{between}.between: needs the condition permutation_state")
        return self

    def _check_peer(self, generator: str, kinds: Collection[str]) -> None:
        for block in ("tune", "hypernetwork", "prompts", "wanted"):
            if getattr(self, block):
                raise ValueError(f"{block}: needs RPG, and model.generator is another one; remove one of them")
        if "vector" in kinds:
            raise ValueError("model.conditions: model.generator knows no vector")
        for kind in ("task_code", "images"):
            if kind in kinds and generator in ("gaussian", "sane"):
                raise ValueError(f"model.conditions: the generator {generator} knows no {kind}")
        if "text" in kinds:
            raise ValueError(f"model.conditions: the generator {generator} knows no text")

    def _check_prompt(self, kinds: Sequence[str]) -> None:
        """Check the condition of a prompt, and the keys that need one."""
        keys = {"images": "images", "text": "questions"}
        for kind, key in keys.items():
            if kind not in kinds and getattr(self.sample, key):
                raise ValueError(f"sample.{key}: needs the condition {kind}")
        prompt = next((kind for kind in keys if kind in kinds), None)
        if prompt is None:
            if self.prompts:
                raise ValueError("prompts: needs the condition images or text")
            return
        if kinds.count(prompt) > 1 or len({*keys} & {*kinds}) > 1:
            raise ValueError("model.conditions: a model takes one prompt, of images or of text")
        if prompt not in self.task.prompts:
            raise ValueError(f"model.conditions: task.kind {self.task.kind} knows no {prompt}")
        if prompt == "images" and (not self.base or len(self.base.seeds) > 1):
            raise ValueError("model.conditions: images needs task.kind task_codes and a base block of one seed")
        if "task_code" in kinds or set(kinds) == {prompt}:
            raise ValueError(
                f"model.conditions: {prompt} needs another condition, such as permutation_state, no task_code"
            )
        if not self.model.generator and (self.train.steps or not self.tune):
            raise ValueError(
                f"model.conditions: {prompt} can be read in tune alone; add the block, and set train.steps to 0"
            )
        if not getattr(self.sample, keys[prompt]):
            raise ValueError(f"sample.{keys[prompt]}: missing; {prompt} needs it")
        if prompt == "text" and self.tune and self.tune.absent:
            raise ValueError("tune.absent: needs the condition images: a prompt of text shows no classes")
        if self.prompts and self.prompts.prompt != prompt:
            raise ValueError(f"prompts: these are the keys of another prompt; the model takes {prompt}")
        if self.prompts:
            self.prompts.check_tasks(self.codes(held_out=False), self.codes(held_out=True))

    def has(self, condition: str) -> bool:
        """Return whether an optional stage is present.

        "task_codes" stands for a task with codes, "images" and "text" for conditions. "A and B" needs both.
        """
        special = {
            "task_codes": lambda: self.task.has_codes,
            "images": lambda: self.images is not None,
            "text": lambda: self.model.text is not None,
        }
        return all(
            special[part]() if part in special else getattr(self, part) is not None for part in condition.split(" and ")
        )

    @property
    def images(self) -> ImagesCondition | None:
        """The condition `images`, if the model has it."""
        return self.model.images

    def stages(self) -> list[str]:
        """Return the names of the experiment's stages, first to last."""
        return [stage for stage in STAGES if stage not in OPTIONAL or self.has(stage)]

    def timed(self) -> list[str]:
        """Return the stages whose seconds are measured, first to last."""
        return [stage for stage in self.stages() if stage in TIMED]

    def runs(self) -> dict[int, Run]:
        """Return index → run of the zoo.

        A run keeps its index when params.yaml gains more runs.
        """
        return self.task.runs(self.zoo)

    def codes(self, held_out: bool) -> list[str]:
        """Return the task codes of the zoo's runs that RPG learns from, or of those that are held out."""
        return list(dict.fromkeys(run.code or "" for run in self.runs().values() if run.held_out == held_out))

    def shards(self) -> dict[str, list[Run]]:
        """Return shard name → runs.

        A run's shard depends on the run's index alone, so a new seed changes no other shard.
        """
        shards: dict[str, list[Run]] = {}
        for index, run in self.runs().items():
            first = index - index % self.zoo.runs_per_shard
            shards.setdefault(f"{first:04d}-{first + self.zoo.runs_per_shard - 1:04d}", []).append(run)
        return shards

    def recipe(self, runs: list[Run]) -> dict[str, Any]:
        """Return the task and zoo blocks that the checkpoints of `runs` depend on, without other shards' runs."""
        # Dumping the runs of all shards would be slow: each of ten thousand shards calls this method.
        others = {"task": set(self.task.run_keys), "zoo": set(self.zoo.run_keys)}
        tree = self.model_dump(include={"task", "zoo"}, exclude=others)
        tree["zoo"]["runs"] = [{**run.model_dump(), **self.zoo.run_facts(run)} for run in runs]
        return tree


@cache
def experiment_block(kind: str) -> type[Experiment]:
    """Return the experiment class for a `task.kind`, with the task, base and zoo blocks of that kind."""
    task = task_blocks()[kind]
    name = "".join(part.capitalize() for part in kind.split("_"))
    return pydantic.create_model(
        f"{name}Experiment",
        __base__=Experiment,
        __doc__=Experiment.__doc__,
        task=(task, ...),
        base=(task.base_block | None if task.base_block else None, None),  # type: ignore[arg-type]
        zoo=(task.zoo_block, ...),
    )


def parse_experiment(tree: dict[str, Any]) -> Experiment:
    """Parse an experiment into the class of its `task.kind`; ValidationError if the blocks do not fit."""
    return experiment_block(tree["task"]["kind"]).model_validate(tree)


def _kind(tree: Any) -> Any:
    task = tree.get("task") if isinstance(tree, dict) else getattr(tree, "task", None)
    return task.get("kind") if isinstance(task, dict) else getattr(task, "kind", None)


if TYPE_CHECKING:
    AnyExperiment = Experiment
else:
    _union = None
    for _name in task_blocks():
        _member = Annotated[experiment_block(_name), Tag(_name)]
        _union = _member if _union is None else _union | _member
    AnyExperiment = Annotated[_union, Discriminator(_kind)]
