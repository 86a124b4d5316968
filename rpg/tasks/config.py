"""What the configuration of every benchmark has: the blocks `task`, `base` and `zoo`, and what follows from them.

A benchmark is a folder below rpg/tasks/. Its config.py has a subclass of `TaskConfig` for each `task.kind`, its task.py
the `Task` that builds, trains and scores networks. Nothing outside of rpg/tasks/ asks for the type of a task: what
differs between benchmarks is an attribute or a method here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rpg.blocks import Block

if TYPE_CHECKING:
    from rpg.tasks.base import Task

DATA = "rpg/data/__init__.py"


class Run(Block):
    """One training run of the zoo: the seed of its weights and data order, and its task code if there are several.

    A held-out run is trained and scored, and RPG never learns from it.
    """

    seed: int
    code: str | None
    held_out: bool

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f", code {self.code}" if self.code else "")


class BaseConfig(Block):
    """The `base` block: the networks that the zoo's runs start from."""

    if TYPE_CHECKING:

        @property
        def seeds(self) -> list[int]: ...


class ZooConfig(Block):
    """The `zoo` block: how source networks are trained, and which of their states are kept."""

    # Whether the checkpoints are trained here; otherwise they are only read.
    trained_here: ClassVar[bool] = True
    # Keys that only say which runs there are: a shard's checkpoints do not depend on other runs.
    run_keys: ClassVar[frozenset[str]] = frozenset({"seeds"})

    if TYPE_CHECKING:

        @property
        def seeds(self) -> list[int]: ...

        @property
        def runs_per_shard(self) -> int: ...

        @property
        def saves(self) -> int | None:
            """Checkpoints of each run; None if only their folders tell."""

    def runs_at_once(self) -> int:
        """How many runs are trained at once."""
        return 1

    def run_facts(self, run: Run) -> dict[str, Any]:
        """What a run's checkpoints depend on, besides the run itself."""
        return {}


@dataclass(frozen=True)
class CardText:
    """What a model card says of a benchmark's networks.

    `use` is the Python code that loads a sample, `answer` the sentence about inputs and outputs, `split` the sentence
    about the test split; `library` and `pipeline_tag` are Hugging Face's names.
    """

    network: str
    library: str
    use: str
    answer: str
    split: str = "which neither the zoo's networks nor RPG ever saw"


@dataclass(frozen=True)
class ReportSection:
    """A section of results/tables.md that a benchmark adds: its title and text, and rows.

    A row is its own columns and the summaries of originals and of RPG's samples ({"original": ..., "rpg": ...}).
    """

    text: str
    rows: list[tuple[dict[str, str], dict[str, Any]]]


class TaskConfig(Block):
    """The `task` block: a benchmark and its choices. `kind` is the name of the subclass in params.yaml."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str: ...

    # The classes of the `base` block, None if there is none, and of the `zoo` block.
    base_block: ClassVar[type[BaseConfig] | None] = None
    zoo_block: ClassVar[type[ZooConfig]]
    # The blocks of optional stages that an experiment of this task may have.
    optional: ClassVar[frozenset[str]] = frozenset()
    # Whether a base block is a must.
    needs_base: ClassVar[bool] = False
    # Whether checkpoints are adapters of low rank, which have a canonical form; None if only the files tell.
    adapters: ClassVar[bool | None] = False
    # Keys that only say which runs there are.
    run_keys: ClassVar[frozenset[str]] = frozenset()
    # Whether `Task.pictures` has something to draw.
    has_pictures: ClassVar[bool] = False
    # Hugging Face's names of the task and of its metric.
    pipeline_tag: ClassVar[str] = "other"
    card_metric: ClassVar[str] = "score"

    @property
    def dataset(self) -> str:
        """The short name of the data set."""
        raise NotImplementedError

    @property
    def dataset_title(self) -> str:
        """The data set's name in a sentence."""
        return self.dataset

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes that a task code tells apart; None for a benchmark without task codes."""
        return None

    @property
    def has_codes(self) -> bool:
        """Whether each run of the zoo has a task code."""
        return self.classes is not None

    def held_out_codes(self) -> list[str]:
        """The task codes that only scores look at; none without task codes."""
        return []

    def code(self) -> list[str]:
        """Source files besides the benchmark's own folder that compute its networks and scores."""
        return []

    def load(self, data_root: str | None) -> "Task":
        """The benchmark itself; `data_root` is the folder of the data sets."""
        raise NotImplementedError

    def runs(self, zoo: ZooConfig) -> dict[int, Run]:
        """Index → run of the zoo. The index of a run depends on nothing that params.yaml may add later."""
        return {seed: Run(seed=seed, code=None, held_out=False) for seed in sorted(zoo.seeds)}

    def check_experiment(self, experiment: Any) -> None:
        """ValueError if other blocks of the experiment do not fit this task."""

    def check_among(self, name: str, experiments: Mapping[str, Any]) -> None:
        """ValueError if the experiment `name` does not fit the other ones of params.yaml."""

    def check_files(self) -> str | None:
        """Why a file that the block names can't be used, before anything runs; None if all can."""
        return None

    def borrowed_base(self) -> str | None:
        """The experiment whose base network this task starts from, wherever that is; None if there is none."""
        return None

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """Why → files that a stage reads, besides what it reads in every experiment."""
        return {}

    def shard_reads(self, zoo: ZooConfig, runs: Collection[Run]) -> list[Path]:
        """Files that the zoo stage reads for these runs alone."""
        return []

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        """One line for each data set or model that these stages need and that is not there, with the remedy."""
        return []

    def card(self, name: str, adapters: bool) -> CardText:
        """The text of the model card of experiment `name`; `adapters`: whether its samples are adapters."""
        raise NotImplementedError

    @classmethod
    def report_section(cls, experiments: Mapping[str, Any]) -> ReportSection | None:
        """The section of tables.md about this benchmark, from the entries of metrics.json; None without one.

        Tasks that return the same section share it.
        """
        return None
