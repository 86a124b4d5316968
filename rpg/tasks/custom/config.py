"""The user's own networks: `task.kind` custom."""

import ast
import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from rpg.blocks import Count
from rpg.tasks.config import CardText, Run, TaskConfig, ZooConfig
from rpg.tasks.custom.runs import expanded, is_pattern
from rpg.utils.metric import PERCENT, MetricKind

if TYPE_CHECKING:
    from rpg.tasks.custom.task import Custom

ImportPath = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$")]


class GivenZoo(ZooConfig):
    """Networks that were trained elsewhere: the checkpoints of several training runs.

    A run is a folder of checkpoints, in the natural order of their names, or a single checkpoint. The matches of a
    pattern in `runs`, in natural order, take its place in the list when params.yaml is loaded. A checkpoint is a file
    of a state dict or of a training state with one, or an adapter's folder. A run's place in the list is its
    permutation state.
    """

    trained_here: ClassVar = False
    run_keys: ClassVar = frozenset({"runs"})

    # Snakemake reads text in braces as a wildcard.
    runs: Annotated[
        list[Annotated[str, Field(pattern=r"^[^{}\x00-\x1f]+$")]],
        Field(
            min_length=1,
            description="for each run a folder of checkpoints, or a single checkpoint; with *, ? or [ an entry is a"
            " pattern, each match of which is a run",
        ),
        # Snakemake, DVC and the shards see the files and folders, not the patterns.
        BeforeValidator(lambda runs: expanded(runs) if _are_texts(runs) else runs),
    ]
    runs_per_shard: Count
    facts: Annotated[
        Annotated[str, Field(pattern=r"^[^{}\x00-\x1f]+\.(csv|json)$")] | None,
        Field(
            exclude_if=lambda facts: facts is None,
            description="a .csv or .json table with a row of numbers or classes for each checkpoint, for the condition"
            " vector",
        ),
    ] = None
    weights: Annotated[
        str | None,
        Field(
            pattern=r"^[^{}\x00-\x1f]+$",
            exclude_if=lambda weights: weights is None,
            description="the key of the network in checkpoints that hold several, such as state_dict_ema, or the prefix"
            " of its names, such as student.",
        ),
    ] = None

    @property
    def seeds(self) -> list[int]:
        """The index of each run."""
        return list(range(len(self.runs)))

    @property
    def saves(self) -> None:
        """None: the number of checkpoints depends on the folders."""

    @model_validator(mode="after")
    def _runs_differ(self) -> "GivenZoo":
        folders = [Path(run) for run in self.runs]
        if len(set(folders)) != len(folders):
            raise ValueError("runs: a folder is listed twice; remove one")
        return self

    def run_facts(self, run: Run) -> dict[str, Any]:
        return {"folder": self.runs[run.seed]}


class CustomTask(TaskConfig):
    """Networks or peft adapters that the user trained elsewhere, scored by the user's own function.

    Write a function as `package.module:function`. Python looks for the module in the folder of params.yaml first.
    """

    zoo_block: ClassVar = GivenZoo
    adapters: ClassVar = None
    extra: ClassVar = ""
    how_to_build: ClassVar = "`generator.network(..., build=build)` returns the network that your own `build()` makes."

    kind: Literal["custom"]
    build: Annotated[ImportPath, Field(description="build() returns a torch.nn.Module that fits the checkpoints")]
    score: Annotated[
        ImportPath,
        Field(
            description="function: score(network, split) returns a number or (answers, targets);"
            " split is validation or test"
        ),
    ]
    metric: Annotated[str, Field(pattern=r"^\w[\w .-]*$", description="the score's name in the tables")]
    # Without these keys, artifacts are those of earlier versions, which had percentages alone.
    unit: Annotated[
        str,
        Field(
            pattern=r"^[^|{}\x00-\x1f]{0,20}$",
            exclude_if=lambda unit: unit == PERCENT.unit,
            description="unit of the score, such as dB, or an empty text; a percentage is from 0 to 100, other scores"
            " are any finite numbers",
        ),
    ] = PERCENT.unit
    lower_is_better: Annotated[
        bool, Field(exclude_if=lambda lower: not lower, description="whether a lower score is better, as of an error")
    ] = False

    @property
    def metric_kind(self) -> MetricKind:
        return MetricKind(self.unit, self.lower_is_better)

    @property
    def dataset(self) -> str:
        return self.kind

    @property
    def dataset_title(self) -> str:
        return "data of their own"

    def code(self) -> list[str]:
        return ["rpg/tasks/adapters.py"]

    def load(self, data_root: str | None) -> "Custom":
        from rpg.tasks.custom.task import Custom

        return Custom(self)

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """Return the user's own modules."""
        named = (self.build,) if stage == "sample" else (self.build, self.score)
        return {_slug(*named): given_modules(*named)}

    def zoo_reads(self, zoo: ZooConfig) -> dict[str, list[Path]]:
        folders = [zoo.run_facts(run)["folder"] for run in self.runs(zoo).values()]
        # All folder names together would be too long for the name of a stage.
        assert isinstance(zoo, GivenZoo)
        folders += [zoo.facts] if zoo.facts else []
        digest = hashlib.sha256("\n".join(folders).encode()).hexdigest()
        return {f"runs-{digest[:8]}": [Path(folder) for folder in folders]}

    def shard_reads(self, zoo: ZooConfig, runs: Collection[Run]) -> list[Path]:
        assert isinstance(zoo, GivenZoo)
        files = [file for run in runs for file in _files(Path(zoo.run_facts(run)["folder"]))]
        return files + (_files(Path(zoo.facts)) if zoo.facts else [])

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        if "zoo" not in stages:
            return []
        zoo = experiment.zoo
        lines = [f"{run}: no such checkpoints; correct zoo.runs" for run in zoo.runs if not Path(run).exists()]
        if zoo.facts and not Path(zoo.facts).is_file():
            lines.append(f"{zoo.facts}: no such table; correct zoo.facts")
        return lines

    def check_experiment(self, experiment: Any) -> None:
        """Raise ValueError if a pattern without a match hides the number of runs that another block needs."""
        unmatched = next((run for run in experiment.zoo.runs if is_pattern(run)), None)
        if unmatched and experiment.sample.between:
            raise ValueError(f"zoo.runs: nothing matches '{unmatched}', but sample.between needs two runs or more")

    def card(self, name: str, adapters: bool) -> CardText:
        from rpg.tasks.custom.card import card

        return card(self, name, adapters)


def _are_texts(runs: Any) -> bool:
    return isinstance(runs, list) and all(isinstance(run, str) for run in runs)


def _slug(*names: str) -> str:
    return "-".join(dict.fromkeys(re.sub(r"\W+", "-", name).strip("-") for name in names))


def _files(run: Path) -> list[Path]:
    """Return all files of a run's folder, or the single file; none if it is missing, which `rpg zoo` reports."""
    return sorted(path for path in (run, *run.rglob("*")) if path.is_file())


def given_modules(*functions: str) -> list[Path]:
    """Return the files of a user's functions, module:function, and of their imports, within this folder."""
    pending, files = [function.partition(":")[0] for function in functions], dict[Path, None]()
    while pending:
        names = [name for name in pending.pop().split(".") if name]
        # Importing a module also runs the __init__.py of its packages.
        for stem in (Path(*names[:count]) for count in range(1, len(names) + 1)):
            for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                # The stage registry already lists this package's own files.
                if path not in files and path.is_file() and path.parts[0] != "rpg":
                    files[path] = None
                    pending += _imported(path)
    return sorted(files)


def _imported(path: Path) -> Iterator[str]:
    """Yield the names that a file imports and that may be modules; none if the file is not Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if alias.name != "*")
