"""Classification with timm networks that this project trains: `task.kind` classification and task_codes."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rpg.blocks import Block, Count, Positive, Seeds, Share, absent
from rpg.data import CLASSES, SIDES, TITLES, missing_data
from rpg.tasks.config import BaseConfig, CardText, Run, TaskConfig, ZooConfig
from rpg.utils import task_codes

SHIFT = "maximum random shift of a training image in each direction, in pixels before the image is resized"

if TYPE_CHECKING:
    from rpg.tasks.classification.task import Classification


class TimmNetwork(Block):
    """A source network as `timm.create_model(name, **arguments)`."""

    # A colon would make timm download a network from a hub.
    name: Annotated[str, Field(pattern=r"^[\w.]+$")]
    arguments: dict[str, Any]

    @model_validator(mode="after")
    def _from_scratch(self) -> "TimmNetwork":
        for key in self.arguments:
            if key == "checkpoint_path" or key.startswith("pretrained"):
                raise ValueError(
                    f"arguments: {key} would load weights; remove it, the zoo's networks start from their seed"
                )
        return self


class ClassificationBase(BaseConfig):
    """Training of the base networks, which separate all classes. The zoo's runs start from them with a new head.

    One seed makes one base network for the whole zoo. As many seeds as zoo.seeds make one base network, and so one
    initialization, for each of the zoo's seeds. Without this block each run starts from random weights of its own seed.
    """

    seeds: Seeds
    steps: Count
    batch: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    shift: Annotated[int, Field(ge=0, description=SHIFT)]


class ClassificationZoo(ZooConfig):
    """Training of the source networks, and the checkpoints to keep.

    Each seed trains with AdamW for `steps` steps along a one-cycle schedule up to `learning_rate`. It continues at
    `final_learning_rate` and saves `saves` checkpoints, one every `save_every` steps. With task codes there is one such
    run for each seed and code. `together` runs train at once, which is faster and needs more memory.
    """

    run_keys: ClassVar = frozenset({"seeds", "early_held_out"})

    seeds: Seeds
    runs_per_shard: Count
    together: Count
    steps: Count
    head_steps: Annotated[int, Field(ge=0, description="first steps that train only the head")]
    focal_gamma: Annotated[float, Field(ge=0, description="exponent of the focal loss; 0 is cross-entropy")]
    batch: Count
    learning_rate: Positive
    final_learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    label_smoothing: Share
    shift: Annotated[int, Field(ge=0, description=SHIFT)]
    saves: Count
    save_every: Count
    early: Annotated[
        list[Count] | None,
        Field(min_length=1, exclude_if=absent, description="steps of the schedule that save a checkpoint, too"),
    ] = None
    early_held_out: Annotated[
        Seeds | None,
        Field(exclude_if=absent, description="seeds whose checkpoints of `early` RPG never learns from"),
    ] = None

    @model_validator(mode="after")
    def _early_fits(self) -> "ClassificationZoo":
        early = self.early or []
        if early != sorted(set(early)) or any(step >= self.steps for step in early):
            raise ValueError(f"early: must be increasing steps below steps, {self.steps}")
        held_out = self.early_held_out or []
        if not set(held_out) < set(self.seeds) and held_out:
            raise ValueError("early_held_out: must name some of seeds, and not all")
        if held_out and not early:
            raise ValueError("early_held_out: needs early, the steps to hold out")
        return self

    def holds_out(self, run: Run, step: int) -> bool:
        return run.held_out or (step < self.steps and run.seed in (self.early_held_out or ()))

    def run_facts(self, run: Run) -> dict[str, Any]:
        return {"early_held_out": True} if run.seed in (self.early_held_out or ()) else {}

    def runs_at_once(self) -> int:
        return self.together


class _TimmClassification(TaskConfig):
    """The keys that both kinds of task share."""

    zoo_block: ClassVar = ClassificationZoo
    pipeline_tag: ClassVar = "image-classification"
    card_metric: ClassVar = "accuracy"

    data: Literal["digits", "cifar10"]
    resolution: Annotated[int, Field(ge=1, description="width and height of the resized images in pixels")]
    network: TimmNetwork

    @property
    def dataset(self) -> str:
        return self.data

    @property
    def dataset_title(self) -> str:
        return TITLES[self.data]

    @property
    def hidden_classes(self) -> list[int]:
        """The classes that base, zoo and RPG never see."""
        return getattr(self, "hidden", None) or []

    @property
    def visible_classes(self) -> list[int]:
        """All other classes."""
        return [index for index in range(len(CLASSES[self.data])) if index not in self.hidden_classes]

    def check_experiment(self, experiment: Any) -> None:
        side = SIDES[self.data]
        for name, block in (("base", experiment.base), ("zoo", experiment.zoo)):
            if block and block.shift > side // 4:
                raise ValueError(
                    f"{name}.shift: {block.shift} of {side} pixels, before images are resized to {self.resolution},"
                    f" would move too much out of sight; at most {side // 4}"
                )

    def code(self) -> list[str]:
        return ["rpg/data"]

    @classmethod
    def import_libraries(cls) -> None:
        import rpg.tasks.classification.networks
        import rpg.tasks.classification.task  # noqa: F401

    def load(self, data_root: str | None) -> "Classification":
        from rpg.tasks.classification.task import Classification

        return Classification(self, data_root)  # type: ignore[arg-type]

    def missing(self, experiment: Any, data_root: str | None, stages: Any) -> list[str]:
        return missing_data(self.data, data_root)

    def card(self, name: str, adapters: bool) -> CardText:
        from rpg.tasks.classification.card import card

        return card(self)  # type: ignore[arg-type]


class ClassificationTask(_TimmClassification):
    """Image classification with a timm network; the metric is top-1 accuracy in percent."""

    optional: ClassVar = frozenset({"tune", "wanted"})

    kind: Literal["classification"]


class TaskCodes(_TimmClassification):
    """One binary task per code.

    A code is a whole number. Its ten binary digits are the bits; the first digit belongs to class 0, or to the first
    transformation. The zoo trains networks for `seen` codes, drawn with the seed `draw`, and for the `held_out` codes,
    which only the scores use. The metric is top-1 accuracy in percent.
    """

    base_block: ClassVar = ClassificationBase
    optional: ClassVar = frozenset({"base", "tune", "hypernetwork", "prompts"})
    has_codes: ClassVar = True
    prompts: ClassVar = frozenset({"images"})
    run_keys: ClassVar = frozenset({"seen", "draw", "held_out", "held_out_pairs"})

    kind: Literal["task_codes"]
    bits: Annotated[
        Literal["classes", "transformations"],
        Field(
            description="the meaning of a bit: whether a class counts as yes, or whether the images are transformed in"
            " one of ten ways, where yes is an odd class"
        ),
    ] = "classes"
    seen: Annotated[int, Field(ge=2, description="number of codes that RPG learns from")]
    draw: Annotated[int, Field(ge=0, description="seed that draws the seen codes")]
    held_out: Annotated[list[Annotated[int, Field(ge=1, le=1022)]], Field(min_length=1)]
    held_out_pairs: Annotated[
        int, Field(ge=0, description="number of seen codes that hold out the run of one seed; needs several seeds")
    ]
    hidden: Annotated[
        list[int] | None,
        Field(
            min_length=2,
            exclude_if=absent,
            description="classes whose images base, zoo and RPG never see; their bits are 0 in all codes",
        ),
    ] = None

    @model_validator(mode="after")
    def _codes_fit(self) -> "TaskCodes":
        if len(set(self.held_out)) != len(self.held_out):
            raise ValueError("held_out: a code is listed twice; remove one")
        hidden = {*self.hidden_classes}
        if not hidden < {*range(task_codes.CLASSES)} or (hidden and self.bits != "classes"):
            raise ValueError("hidden: must be some of the classes, 0 to 9, with bits: classes")
        if fault := next((code for code in self.held_out_codes() if not self._has_both(code)), None):
            raise ValueError(f"held_out: {int(fault, 2)} needs 0 for the hidden classes, and both bits for the others")
        try:
            self.seen_codes()
        except ValueError as error:
            raise ValueError(f"seen: {error}") from error
        if self.held_out_pairs > self.seen:
            raise ValueError(f"held_out_pairs: must be at most seen, {self.seen}")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        from rpg.tasks.classification.meanings import TransformationBits

        return CLASSES[self.data] if self.bits == "classes" else TransformationBits.NAMES

    @property
    def in_words(self) -> bool:
        return self.bits == "classes"

    def held_out_codes(self) -> list[str]:
        """Return the held-out codes as text, in the order of `held_out`."""
        return [task_codes.of_number(number) for number in self.held_out]

    def seen_codes(self) -> list[str]:
        """Return the seen codes as text, in the order of their draw."""
        held = {*self.held_out_codes()}
        return task_codes.draw_seen(
            self.seen,
            self.draw,
            [*held],
            # Among visible classes alone, the complement of a code has 0 for the hidden ones, too.
            lambda code: self._has_both(code) and not (self.hidden_classes and self._complement(code) in held),
        )

    def _complement(self, code: str) -> str:
        """Return the code of the same task of visible classes with swapped answers."""
        swapped = task_codes.complement(code)
        return "".join("0" if index in self.hidden_classes else bit for index, bit in enumerate(swapped))

    def _has_both(self, code: str) -> bool:
        """Return whether a code has a 0 and a 1 among the visible classes, and only 0 for the others."""
        seen = {code[index] for index in self.visible_classes}
        return len(seen) == 2 and all(code[index] == "0" for index in self.hidden_classes)

    def runs(self, zoo: ZooConfig) -> dict[int, Run]:
        held, seen = self.held_out_codes(), self.seen_codes()
        # The k-th seen code holds out the run of the k-th seed; the seeds repeat cyclically.
        pairs = {(zoo.seeds[k % len(zoo.seeds)], seen[k]) for k in range(self.held_out_pairs)}
        return {
            seed * 2**task_codes.CLASSES + index: Run(
                seed=seed, code=code, held_out=code in held or (seed, code) in pairs
            )
            for seed in sorted(zoo.seeds)
            for index, code in enumerate([*held, *seen])
        }

    def check_experiment(self, experiment: Any) -> None:
        super().check_experiment(experiment)
        if not experiment.sample.seen or experiment.sample.seen > self.seen:
            raise ValueError(f"sample.seen: must be from 1 to {self.seen} with task codes")
        if self.held_out_pairs and len(experiment.zoo.seeds) == 1:
            raise ValueError("task.held_out_pairs: needs two seeds or more in zoo.seeds")
