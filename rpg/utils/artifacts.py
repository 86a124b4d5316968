"""Types of the JSON files that stages write for each other. Additional keys are allowed and kept.

`rpg.utils.files.read_json` and `read_sealed` return a file as an instance of its type.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema, WrapValidator, field_validator

from rpg.utils import task_codes
from rpg.utils.metric import MetricKind

T = TypeVar("T")
# The type of an optional key with the default None. The key may be absent from a file, but it may not be null there.
MayLack = Annotated[T | None, GetPydanticSchema(lambda kind, handler: handler(reduce(or_, get_args(kind)[:-1])))]

# A task code in the format of rpg.utils.task_codes, or the name of a task.
Code = Annotated[str, Field(pattern=f"^([01]{{{task_codes.CLASSES}}}|[A-Za-z][A-Za-z0-9_-]*)$")]

# A number; an integer stays one, so that a file is written as it was read.
Number = Annotated[float, WrapValidator(lambda number, validate: (validate(number), number)[1])]


# The names of the sets of networks (`rpg.evaluation.score.SETS`).
Set = Literal["seen", "held_out_pairs", "held_out", "all", "between"]


class Form(BaseModel):
    """The required content of a file, or of a part of a file."""

    model_config = ConfigDict(strict=True, extra="allow")

    def tree(self) -> dict[str, Any]:
        """Return the JSON object exactly as it was read, with additional keys and without absent ones."""
        return self.model_dump(exclude_unset=True, by_alias=True)


class ListedFile(Form):
    """An entry of a manifest: a file's path relative to the manifest's folder, and the file's SHA-256."""

    file: Annotated[str, Field(pattern=r"^[^\x00/][^\x00]*$")]
    sha256: str

    @field_validator("file")
    @classmethod
    def _below(cls, file: str) -> str:
        if ".." in file.split("/"):
            raise ValueError("the path leads out of the folder")
        return file


class Files(Form):
    """base/manifest.json, and other manifests that list files."""

    files: Annotated[list[ListedFile], Field(min_length=1)]


class Seconds(Form):
    """seconds/<stage>.json: the run time of a stage, and the device of a training."""

    seconds: Number
    device: MayLack[str] = None


class Answers(Form):
    """Answers of a network that an interrupted evaluation saved."""

    answers: list[int]


Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Difference(Form):
    """The mean of RPG's scores minus the mean of a rival's, in points or the metric's unit, and its interval."""

    mean: Number
    interval: MayLack[Interval] = None


class Measured(Form):
    """A file with scores by a main metric; a percentage of which higher is better has neither key."""

    unit: str = "percent"
    lower_is_better: bool = False

    @property
    def metric_kind(self) -> MetricKind:
        """The unit and the direction of the main metric."""
        return MetricKind(self.unit, self.lower_is_better)


class ScoreSummary(Form):
    """The summary of several scores, as `rpg.evaluation.score.summary` makes it; one group has no interval.

    `best` is the score of the best network and `min` that of the worst one, the largest if lower is better.
    """

    mean: Number
    std: Number
    interval: MayLack[Interval] = None
    min: Number
    best: Number
    n: Annotated[int, Field(ge=1)]


class Compared(Form):
    """The scores of RPG and of the originals by one metric."""

    original: ScoreSummary
    rpg: ScoreSummary
    base_model: MayLack[ScoreSummary] = None


class Summaries(Compared, Measured):
    """The scores of an experiment's networks by its main metric, also set by set, and by its other metrics."""

    metric: str
    parameters: int
    seen: MayLack[ScoreSummary] = None
    held_out: MayLack[ScoreSummary] = None
    held_out_pairs: MayLack[ScoreSummary] = None
    between: MayLack[ScoreSummary] = None
    # The networks of runs that RPG never saw.
    held_out_runs: MayLack[ScoreSummary] = None
    original_by_set: MayLack[dict[Set, ScoreSummary]] = None
    baselines: dict[str, dict[Set, ScoreSummary]] = Field(default_factory=dict)
    others: dict[str, Compared] = Field(default_factory=dict)
    # Rival → set of RPG's samples → RPG minus the rival.
    differences: dict[str, dict[Set, Difference]]

    def by_set(self) -> dict[Set, ScoreSummary]:
        """Return the summaries of RPG's samples by set, without the set `all`."""
        sets: dict[Set, ScoreSummary | None] = {
            "seen": self.seen,
            "held_out_pairs": self.held_out_pairs,
            "held_out": self.held_out,
            "between": self.between,
        }
        return {name: summary for name, summary in sets.items() if summary}


class Reported(Summaries):
    """An experiment's entry in results/metrics.json, without its novelty."""

    task: str


class _Coded(Protocol):
    """A network with or without a task code."""

    @property
    def code(self) -> str | None: ...


def all_have_codes(networks: Sequence[_Coded]) -> None:
    """Raise ValueError if some networks have a task code and others have none."""
    if len({network.code is None for network in networks}) > 1:
        raise ValueError("some networks have a task code and some have none")
