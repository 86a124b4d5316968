"""The user's own networks: `task.kind` custom."""

import ast
import hashlib
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from rpg.blocks import Count, absent
from rpg.tasks.config import CardText, Run, TaskConfig, ZooConfig
from rpg.tasks.custom.runs import expanded, grouped, is_pattern
from rpg.utils.metric import DISTANCE, PERCENT, MetricKind

if TYPE_CHECKING:
    from rpg.tasks.custom.task import Custom

ImportPath = Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$")]


# Snakemake reads text in braces as a wildcard.
Text = Annotated[str, Field(pattern=r"^[^{}\x00-\x1f]+$")]


def _is_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression ({error})") from error
    return text


def names_run(name: str, run: str) -> bool:
    """Return whether `name`, a name or a pattern, stands for the run; a name may have brackets, as lr=[0.1].

    The last part of a run's path is a name, too.
    """
    return name in (run, Path(run).name) or fnmatchcase(run, name)


class GivenZoo(ZooConfig):
    """Networks that were trained elsewhere: the checkpoints of several training runs.

    A run is a folder of checkpoints, in the natural order of their names, or a single checkpoint. The matches of a
    pattern in `runs`, in natural order, take its place in the list. With `state_from`, `runs` lists checkpoints, and
    those in whose paths the expression captures the same text are one run. A checkpoint is a file of a state dict or of
    a training state with one, or an adapter's folder. A run's place in the list is its permutation state.
    """

    trained_here: ClassVar = False
    run_keys: ClassVar = frozenset({"runs", "state_from", "held_out"})

    runs: Annotated[
        list[Text],
        Field(
            min_length=1,
            description="for each run a folder of checkpoints, or a single checkpoint; with *, ? or [ an entry is a"
            " pattern, each match of which is a run",
        ),
    ]
    runs_per_shard: Count
    state_from: Annotated[
        Annotated[str, AfterValidator(_is_expression)] | None,
        Field(
            exclude_if=absent,
            description="a regular expression: checkpoints in whose paths it captures the same text are one run",
        ),
    ] = None
    held_out: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            exclude_if=absent,
            description="runs, by name or pattern, that RPG never learns from; the distances compare with them",
        ),
    ] = None
    facts: Annotated[
        Annotated[str, Field(pattern=r"^[^{}\x00-\x1f]+\.(csv|json)$")] | None,
        Field(
            exclude_if=absent,
            description="a .csv or .json table with a row of numbers or classes for each checkpoint, for the condition"
            " vector",
        ),
    ] = None
    weights: Annotated[
        Text | None,
        Field(
            exclude_if=absent,
            description="the key of the network in checkpoints that hold several, such as state_dict_ema, or the prefix"
            " of its names, such as student.",
        ),
    ] = None

    @cached_property
    def found(self) -> dict[str, list[str]]:
        """The name of each run → its files and folders, by the matches of the patterns at the time of the first use."""
        return grouped(expanded(self.runs), self.state_from)

    @property
    def names(self) -> list[str]:
        """The name of each run."""
        return list(self.found)

    @property
    def seeds(self) -> list[int]:
        """The index of each run."""
        return list(range(len(self.found)))

    @property
    def saves(self) -> None:
        """None: the number of checkpoints depends on the folders."""

    def is_held_out(self, run: str) -> bool:
        """Return whether RPG never learns from the run of this name."""
        return any(names_run(name, run) for name in self.held_out or ())

    @property
    def learned(self) -> list[str]:
        """The names of the runs that RPG learns from; a run's place among them is its permutation state."""
        return [name for name in self.names if not self.is_held_out(name)]

    @model_validator(mode="after")
    def _runs_fit(self) -> "GivenZoo":
        # A folder of an earlier entry may be a match of a later pattern.
        folders = [Path(path) for path in expanded(self.runs)]
        if len(set(folders)) != len(folders):
            raise ValueError("runs: a folder is listed twice; remove one")
        if braces := next((path for path in map(str, folders) if re.search(r"[{}]", path)), None):
            raise ValueError(f"runs: Snakemake reads braces as a wildcard; rename {braces}")
        if self.names and not self.learned:
            raise ValueError("held_out: RPG would learn from no run; remove a name")
        return self

    def run_facts(self, run: Run) -> dict[str, Any]:
        name = self.names[run.seed]
        return {"folder": name} if self.found[name] == [name] else {"folder": name, "files": self.found[name]}


class CustomTask(TaskConfig):
    """Networks or peft adapters that the user trained elsewhere, scored by the user's own function.

    Write a function as `package.module:function`. Python looks for the module in the folder of params.yaml first.
    """

    zoo_block: ClassVar = GivenZoo
    adapters: ClassVar = None
    extra: ClassVar = ""
    how_to_build: ClassVar = "`generator.network(..., build=build)` returns the network that your own `build()` makes."

    kind: Literal["custom"]
    build: Annotated[
        ImportPath | None,
        Field(
            exclude_if=absent,
            description="build() returns a torch.nn.Module that fits the checkpoints; without it RPG knows the"
            " tensors of the files alone",
        ),
    ] = None
    score: Annotated[
        ImportPath | None,
        Field(
            exclude_if=absent,
            description="function: score(network, split) returns a number or (answers, targets);"
            " split is validation or test; without it, the score of a network is its distance from the zoo",
        ),
    ] = None
    metric: Annotated[
        Annotated[str, Field(pattern=r"^\w[\w .-]*$")] | None,
        Field(exclude_if=absent, description="the score's name in the tables"),
    ] = None
    adapter: Annotated[
        Text | None,
        Field(
            exclude_if=absent,
            description="an adapter's folder, whose settings all adapters have, in place of build",
        ),
    ] = None
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

    @model_validator(mode="after")
    def _keys_fit(self) -> "CustomTask":
        if self.score and not self.build:
            raise ValueError("build: missing; score needs the network that it builds")
        if self.adapter and self.build:
            raise ValueError("adapter: build knows the adapters' settings; remove one of the two")
        if (self.score is None) != (self.metric is None):
            raise ValueError("metric: missing; name the score" if self.score else "metric: names a score; add score")
        if not self.score and MetricKind(self.unit, self.lower_is_better) != PERCENT:
            raise ValueError("unit and lower_is_better: belong to a score; remove them")
        return self

    @property
    def has_score(self) -> bool:
        return self.score is not None

    @property
    def metric_kind(self) -> MetricKind:
        return MetricKind(self.unit, self.lower_is_better) if self.score else DISTANCE

    @property
    def dataset(self) -> str:
        return self.kind

    @property
    def dataset_title(self) -> str:
        return "data of their own"

    def code(self) -> list[str]:
        return ["rpg/tasks/adapters.py"]

    def packed(self, folder: Path) -> "CustomTask":
        # The packed folder has an adapter's settings itself.
        return self.model_copy(update={"adapter": None})

    def load(self, data_root: str | None) -> "Custom":
        from rpg.tasks.custom.task import Custom

        return Custom(self)

    def runs(self, zoo: ZooConfig) -> dict[int, Run]:
        assert isinstance(zoo, GivenZoo)
        held_out = [zoo.is_held_out(name) for name in zoo.names]
        return {seed: Run(seed=seed, code=None, held_out=held) for seed, held in enumerate(held_out)}

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """Return the user's own modules, and the adapter's folder that stands for `build`."""
        named = [name for name in ((self.build,) if stage == "sample" else (self.build, self.score)) if name]
        modules = {_slug(*named): given_modules(*named)} if named else {}
        return modules | ({"adapter": _files(Path(self.adapter))} if self.adapter else {})

    def zoo_reads(self, zoo: ZooConfig) -> dict[str, list[Path]]:
        assert isinstance(zoo, GivenZoo)
        folders = [*chain.from_iterable(zoo.found.values())] + ([zoo.facts] if zoo.facts else [])
        # All folder names together would be too long for the name of a stage.
        digest = hashlib.sha256("\n".join(folders).encode()).hexdigest()
        return {f"runs-{digest[:8]}": [Path(folder) for folder in folders]}

    def shard_reads(self, zoo: ZooConfig, runs: Collection[Run]) -> list[Path]:
        assert isinstance(zoo, GivenZoo)
        files = [file for run in runs for path in zoo.found[zoo.names[run.seed]] for file in _files(Path(path))]
        return files + (_files(Path(zoo.facts)) if zoo.facts else [])

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        if "zoo" not in stages:
            return []
        zoo = experiment.zoo
        paths = chain.from_iterable(zoo.found.values())
        lines = [f"{path}: no such checkpoints; correct zoo.runs" for path in paths if not Path(path).exists()]
        lines += [
            f"{name}: no such run; correct zoo.held_out"
            for name in zoo.held_out or ()
            if not any(names_run(name, run) for run in zoo.names)
        ]
        if zoo.facts and not Path(zoo.facts).is_file():
            lines.append(f"{zoo.facts}: no such table; correct zoo.facts")
        return lines

    def check_experiment(self, experiment: Any) -> None:
        """Raise ValueError if a pattern without a match hides the number of runs that another block needs."""
        unmatched = next((run for run in experiment.zoo.runs if is_pattern(run) and run in experiment.zoo.found), None)
        if unmatched and experiment.sample.between:
            raise ValueError(f"zoo.runs: nothing matches '{unmatched}', but sample.between needs two runs or more")
        if self.adapter and experiment.tokens.canonical is None:
            raise ValueError("tokens.canonical: missing; adapters need true or false")

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
