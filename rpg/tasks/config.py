"""The base classes of every benchmark's configuration: the blocks `task`, `base` and `zoo`.

A benchmark is a folder in rpg/tasks/. Its config.py has a subclass of `TaskConfig` for each `task.kind`; its task.py
has the `Task` that builds, trains and scores networks. Code outside rpg/tasks/ never tests the type of a task: an
attribute or a method here expresses each difference between benchmarks.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rpg.blocks import Block
from rpg.utils.artifacts import Compared, Reported
from rpg.utils.metric import PERCENT, MetricKind

if TYPE_CHECKING:
    from rpg.tasks.base import Task


class Run(Block):
    """One training run of the zoo: the seed of its weights and data order, and its task code, if any.

    A held-out run is trained and scored, but RPG never learns from it.
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
    """The `zoo` block: how source networks are trained, and which checkpoints are kept."""

    # Whether this project trains the checkpoints; otherwise it only reads them.
    trained_here: ClassVar[bool] = True
    # Keys that only list the runs: a shard's checkpoints do not depend on other runs.
    run_keys: ClassVar[frozenset[str]] = frozenset({"seeds"})

    if TYPE_CHECKING:

        @property
        def seeds(self) -> list[int]: ...

        @property
        def runs_per_shard(self) -> int: ...

        @property
        def saves(self) -> int | None:
            """Number of checkpoints of each run; None if it depends on the runs' folders."""

    def runs_at_once(self) -> int:
        """Return the number of runs to train at once."""
        return 1

    def holds_out(self, run: Run, step: int) -> bool:
        """Return whether RPG never learns from the checkpoint of `run` at `step`."""
        return run.held_out

    def run_facts(self, run: Run) -> dict[str, Any]:
        """Return additional facts that a run's checkpoints depend on."""
        return {}


@dataclass(frozen=True)
class CardText:
    """A benchmark's text for the model card.

    `use` is Python code that loads a sample. `answer` is a sentence about inputs and outputs, `split` a sentence about
    the test split. `library` and `pipeline_tag` are Hugging Face's names.
    """

    network: str
    library: str
    use: str
    answer: str
    split: str = "which neither the zoo's networks nor RPG ever saw"


@dataclass(frozen=True)
class ReportSection:
    """A benchmark's section of results/tables.md: title and text, and rows.

    A row has its own columns and the summaries of the originals and of RPG's samples.
    """

    text: str
    rows: list[tuple[dict[str, str], Compared]]


class TaskConfig(Block):
    """The `task` block: a benchmark and its choices. `kind` names the subclass in params.yaml."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str: ...

    # The classes of the `base` block (None for no such block) and of the `zoo` block.
    base_block: ClassVar[type[BaseConfig] | None] = None
    zoo_block: ClassVar[type[ZooConfig]]
    # The blocks of optional stages that an experiment of this task may have.
    optional: ClassVar[frozenset[str]] = frozenset()
    # Whether the base block is required.
    needs_base: ClassVar[bool] = False
    # Whether checkpoints are low-rank adapters, which have a canonical form; None if it depends on the files.
    adapters: ClassVar[bool | None] = False
    # Keys that only list the runs.
    run_keys: ClassVar[frozenset[str]] = frozenset()
    # Whether each run of the zoo has a task code.
    has_codes: ClassVar[bool] = False
    # The kinds of prompts that can ask for a network: images, text.
    prompts: ClassVar[frozenset[str]] = frozenset()
    # Whether `Task.pictures` returns pictures.
    has_pictures: ClassVar[bool] = False
    # Hugging Face's names for the task and its metric.
    pipeline_tag: ClassVar[str] = "other"
    card_metric: ClassVar[str] = "score"
    # The extra of this package that the networks need; empty if they need none.
    extra: ClassVar[str] = "vision"
    # How `Generator.network` builds a network, for the model card.
    how_to_build: ClassVar[str] = (
        "`generator.network(...)` returns the network itself (`pip install rpg-weights[vision]`)."
    )

    @property
    def dataset(self) -> str:
        """The data set's short name."""
        raise NotImplementedError

    @property
    def dataset_title(self) -> str:
        """The data set's name in a sentence."""
        return self.dataset

    @property
    def has_score(self) -> bool:
        """Whether the benchmark scores a network by itself. Otherwise its score is its distance from the zoo."""
        return True

    @property
    def metric_kind(self) -> MetricKind:
        """The unit of the main metric, and its better direction."""
        return PERCENT

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of a task code's bits, such as the classes; None for a benchmark without task codes."""
        return None

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks; empty for a benchmark whose tasks have codes of bits, or none."""
        return ()

    @property
    def in_words(self) -> bool:
        """Whether a sentence about the data set's classes can name a task."""
        return False

    def held_out_codes(self) -> list[str]:
        """Return the task codes that RPG never learns from; empty without task codes."""
        return []

    def code(self) -> list[str]:
        """Return source files outside the benchmark's folder that its networks and scores depend on."""
        return []

    def load(self, data_root: str | None) -> "Task":
        """Return the benchmark's `Task`; `data_root` is the folder of the data sets."""
        raise NotImplementedError

    def packed(self, folder: Path) -> "TaskConfig":
        """Write the files that the networks are built from into `folder`; return the block that names them there."""
        return self

    def unpacked(self, folder: Path) -> "TaskConfig":
        """Return the block with the paths of the files that `packed` wrote into `folder`.

        The folder may come from a stranger, so a network that is built from the block runs none of the folder's code.
        Raises UserError if the block asks for that.
        """
        return self

    def adapter_tree(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Return the content of adapter_config.json from a packed folder, for this block after `unpacked`."""
        return tree

    @classmethod
    def import_libraries(cls) -> None:
        """Import the libraries that this benchmark's stages use, for processes that will be forked from this one."""

    def runs(self, zoo: ZooConfig) -> dict[int, Run]:
        """Return index → run of the zoo.

        A run keeps its index when params.yaml gains more runs.
        """
        return {seed: Run(seed=seed, code=None, held_out=False) for seed in sorted(zoo.seeds)}

    def check_experiment(self, experiment: Any) -> None:
        """Raise ValueError if other blocks of the experiment do not fit this task."""

    def check_among(self, name: str, experiments: Mapping[str, Any]) -> None:
        """Raise ValueError if the experiment `name` does not fit the other experiments of params.yaml."""

    def check_files(self) -> str | None:
        """Return the reason why a file named in the block is unusable; None if all files are usable."""
        return None

    def borrowed_base(self) -> str | None:
        """Return the experiment whose base network this task starts from; None if there is none."""
        return None

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """Return reason → files that a stage reads, in addition to the files it reads in every experiment."""
        return {}

    def zoo_reads(self, zoo: ZooConfig) -> dict[str, list[Path]]:
        """Return reason → the folders that the zoo stage reads for all runs together; `shard_reads` has the files."""
        return {}

    def shard_reads(self, zoo: ZooConfig, runs: Collection[Run]) -> list[Path]:
        """Return the files that the zoo stage reads for these runs only."""
        return []

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        """Return one line, with the remedy, for each missing data set or model that these stages need."""
        return []

    def card(self, name: str, adapters: bool) -> CardText:
        """Return the model card's text for experiment `name`; `adapters`: whether its samples are adapters."""
        raise NotImplementedError

    @classmethod
    def report_section(cls, experiments: Mapping[str, Reported]) -> ReportSection | None:
        """Return the benchmark's section of tables.md from the entries of metrics.json; None for no section.

        Tasks that return the same section share it.
        """
        return None
