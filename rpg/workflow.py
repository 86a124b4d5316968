"""What the rules and dvc.yaml ask: targets, the choices in params.yaml and the source files that a layer depends on."""

import ast
import base64
import contextlib
import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any, Protocol

from snakemake.exceptions import WorkflowError

from rpg.errors import UserError
from rpg.needs import LAYERS, missing
from rpg.params import (
    Allotment,
    CommonsenseTask,
    CustomTask,
    Experiment,
    FineTuningTask,
    GivenZoo,
    OpenMMLabTask,
    Params,
    PretrainedBase,
    Run,
    load_params,
)
from rpg.paths import RESULTS, Paths, paths_of

# Rule → keys of the experiment that its result depends on, besides its input files.
CHOICES = {
    "base": ("task", "base"),
    "zoo": ("task", "zoo"),
    "collect": ("task", "zoo"),
    "tokens": ("tokens",),
    "train": ("model", "diffusion", "train"),
    "tune": ("task", "tune"),
    "hypernetwork": ("task", "model", "diffusion", "hypernetwork"),
    "sample": ("task", "sample"),
    "score": ("task",),
    "novelty": ("task", "novelty"),
}
# The layers that an experiment may lack: it has those whose block params.yaml gives it.
OPTIONAL = ("base", "tune", "hypernetwork")
# The layers that go on where another job of theirs was stopped.
RESUMED = ("train", "tune", "hypernetwork")
# Of this package's own files those that no result depends on: the version, and how arguments are parsed.
_FREE = ("rpg/__init__.py", "rpg/__main__.py", "rpg/cli.py")

# How glibc allocates memory: tensors of up to 32 MB from its heap, of which up to 1 GB is kept when free. Left alone,
# it gives memory back to the kernel many times a step, and gets it again page by page. Larger ones, 32 MB is the most
# that it takes here, would leave holes in the heap: a network of 111 M weights then needs 23 GB or more in place of 20.
MALLOC = f"glibc.malloc.mmap_threshold={32 * 2**20}:glibc.malloc.trim_threshold={2**30}"
# Before each command. It takes the shell's place: of SIGTERM, which a cluster sends to all processes of a job, a shell
# would die before the command has saved its state, and Snakemake with it.
COMMAND_PREFIX = f"export GLIBC_TUNABLES={MALLOC}; exec "

TOKENS = ("tokens.safetensors", "layout.json", "stats.safetensors")
MODEL = ("model.safetensors", "config.json")


# Snakemake's `config`: params.yaml, with the chosen `run`.
Config = Mapping[str, Any]


class Wildcards(Protocol):
    """Snakemake's wildcards of the rules here."""

    experiment: str
    shard: str
    ablation: str


@cache
def _params() -> Params:
    try:
        params = load_params()
    except UserError as error:
        raise WorkflowError(str(error)) from None
    for name, experiment in params.experiments.items():
        # In an input function it would be told with a traceback.
        if (config := _config_file(experiment)) and not config.is_file():
            raise WorkflowError(f"params.yaml: experiments.{name}.task.config: no file '{config}'")
    return params


@cache
def _shards(experiment: str) -> dict[str, list[Run]]:
    return _params().experiment(experiment).shards()


def _config_file(experiment: Experiment) -> Path | None:
    """The config of segmentation and detection; one that a toolbox ships is as fixed as the toolbox's version."""
    task = experiment.task
    return Path(task.config) if isinstance(task, OpenMMLabTask) and "::" not in task.config else None


def config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of params.yaml, as rpg reads it, with the `run` that `snakemake --config` was given, if it was.

    WorkflowError, one line, if it has a fault.
    """
    try:
        for key in given:
            if key != "run":
                raise UserError(f"--config {key}: only run can be chosen there; everything else stands in params.yaml")
        params = _params()
        if "run" in given:
            run = [given["run"]] if isinstance(given["run"], str) else given["run"]
            params = params.covering(list(map(str, run)), "--config")
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return params.model_dump()


def experiments(config: Config) -> list[str]:
    """The experiments that the tables cover."""
    return [name for name in config["run"] if name in _params().experiments]


def ablations() -> list[str]:
    """All ablations of params.yaml."""
    return list(_params().ablations)


def ablations_to_run(config: Config) -> list[str]:
    """The ablations that the tables cover, too."""
    return [name for name in config["run"] if name in _params().ablations]


def ablation(wildcards: Wildcards) -> dict[str, Any]:
    """For the rule's `params:`, an ablation as params.yaml has it."""
    return _params().ablation(wildcards.ablation).model_dump()


def trials(wildcards: Wildcards) -> list[str]:
    """What an ablation is made of: the models, scores and, if it wants them, distances of its trials."""
    params = _params()
    novelty = params.ablation(wildcards.ablation).novelty
    found: dict[Path, None] = {}
    for name in params.trials(wildcards.ablation):
        paths = paths_of(params, name)
        files = [paths.rpg / "config.json", paths.scores, *([paths.novelty_rows] if novelty else [])]
        found |= dict.fromkeys(files)
    return [str(path) for path in found]


def made(layer: str, output: Any) -> Callable[[Wildcards], str]:
    """For the rule's `input:`, the `output` of an earlier layer, in the folder of the experiment that makes it."""

    def file(wildcards: Wildcards) -> str:
        folder = paths_of(_params(), wildcards.experiment).folder(layer)
        return str(output).format(experiment=folder.relative_to(RESULTS))

    return file


def choices(rule: str) -> Callable[[Wildcards], dict[str, Any]]:
    """For the rule's `params:`, what it depends on besides its input; Snakemake runs it again when they change."""

    def chosen(wildcards: Wildcards) -> dict[str, Any]:
        return _params().experiment(wildcards.experiment).model_dump(include=set(CHOICES[rule]))

    return chosen


def recipe(wildcards: Wildcards) -> dict[str, Any]:
    """As `choices("zoo")` for one shard: its own seeds, not those of other shards."""
    shards = _shards(wildcards.experiment)
    if wildcards.shard not in shards:
        raise WorkflowError(f"shard {wildcards.shard}: not in this zoo; known: {', '.join(shards)}")
    return _params().experiment(wildcards.experiment).recipe(shards[wildcards.shard])


def manifests(wildcards: Wildcards) -> list[str]:
    """The manifests of all shards of an experiment's zoo; each holds the hashes of its checkpoints."""
    zoo = paths_of(_params(), wildcards.experiment).zoo
    shards = _shards(wildcards.experiment)
    return [str(zoo / shard / "manifest.json") for shard in shards]


def extras(rule: str, experiment: Experiment, paths: Paths) -> dict[str, list[Path]]:
    """Why → files that a rule reads besides what it reads of every experiment."""
    models = {folder.name: [folder / name for name in MODEL] for folder in (paths.tune, paths.hypernetwork)}
    # The manifest vouches for the networks beside it.
    base = [paths.base / "manifest.json"]
    found = {
        why: files
        for why, files in {
            "zoo": {"base": base},
            "collect": {"base": base},
            "sample": models,
            "score": {"task_codes": [paths.tokens / name for name in TOKENS]},
        }.get(rule, {}).items()
        if why == experiment.task.kind or getattr(experiment, why, None)
    }
    task = experiment.task
    tasks_of_some = OpenMMLabTask | CommonsenseTask | CustomTask | FineTuningTask
    if isinstance(task, tasks_of_some) and rule in ("base", "zoo", "sample", "score", "novelty"):
        known = code(rule)
        modules = _modules(f"rpg/tasks/{task.kind}.py", *_tasks_but(task.kind))
        own = [Path(file) for file in modules if file not in known]
        if isinstance(task, OpenMMLabTask):
            config = _config_file(experiment)
            found[Path(task.config).stem] = [*own, *([config] if config else [])]
        elif isinstance(task, FineTuningTask):
            given = [Path(experiment.base.weights)] if isinstance(experiment.base, PretrainedBase) else []
            found[task.kind] = [*own, *(file for file in given if rule == "base" and file.is_file())]
        elif isinstance(task, CustomTask):
            named = (task.build,) if rule == "sample" else (task.build, task.score)
            yours = [path for path in given_modules(*named) if str(path) not in (*known, *_FREE)]
            found[_slug(*named)] = sorted({*own, *yours})
            if isinstance(experiment.zoo, GivenZoo) and rule == "zoo":
                # Their names in a row would be too long for a stage's.
                digest = hashlib.sha256("\n".join(experiment.zoo.runs).encode()).hexdigest()
                found[f"runs-{digest[:8]}"] = [Path(run) for run in experiment.zoo.runs]
        elif rule in ("base", "sample"):
            found[task.kind] = own
        else:
            # With a base block of its own, the zoo reads that already.
            made = [] if "base" in found else _model_files(task)
            found[_slug(task.model.removeprefix(f"{RESULTS}/"))] = [*own, *made]
    return found


def _slug(*names: str) -> str:
    return "-".join(dict.fromkeys(re.sub(r"\W+", "-", name).strip("-") for name in names))


def given_modules(*functions: str) -> list[Path]:
    """The files of a user's functions, module:function, and what they import, as far as they lie in this folder."""
    left, found = [function.partition(":")[0] for function in functions], dict[Path, None]()
    while left:
        names = [name for name in left.pop().split(".") if name]
        # What a package runs by itself is part of its modules.
        for stem in (Path(*names[:count]) for count in range(1, len(names) + 1)):
            for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                if path not in found and path.is_file():
                    found[path] = None
                    left += _imported(path)
    return sorted(found)


def _imported(path: Path) -> Iterator[str]:
    """The modules, and what might be some, that a file imports; none of a file that isn't Python."""
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


def _model_files(task: CommonsenseTask) -> list[Path]:
    """What vouches for the language model of an experiment that trains its own; any other is as fixed as its name."""
    folder = Path(task.model)
    return [folder.parent / "manifest.json"] if folder.is_relative_to(RESULTS) else []


def extra(rule: str) -> Callable[[Wildcards], list[str]]:
    """For the rule's `input:`, what it reads of layers that not every experiment has."""

    def files(wildcards: Wildcards) -> list[str]:
        params, name = _params(), wildcards.experiment
        experiment = params.experiment(name)
        found = [path for paths in extras(rule, experiment, paths_of(params, name)).values() for path in paths]
        if rule == "zoo" and isinstance(experiment.zoo, GivenZoo):
            folders = [Path(run) for run in experiment.zoo.runs]
            found = [path for path in found if path not in folders]
            for run in _shards(name).get(wildcards.shard, []):
                found += _files(folders[run.seed])
        return [str(path) for path in found]

    return files


def _files(run: Path) -> list[Path]:
    """All files of a run's folder, or the one that it is; none if it is missing, which `rpg zoo` tells better."""
    return sorted(path for path in (run, *run.rglob("*")) if path.is_file())


def memory(megabytes: int, together: Collection[str] = ()) -> Callable[..., int]:
    """For the rule's `resources:`, the memory of a job in megabytes: the rule's own or that of the `cluster` block.

    The second attempt gets half as much again, the third and later ones twice as much. The jobs of experiments that
    run `together` all ask for the most that one of them needs, since a job array gets what its first job asks for.
    """

    def asked(wildcards: Wildcards, attempt: int, rulename: str) -> int:
        found = [
            given.memory_gb * 1000 if given else megabytes
            for given in _allotments(rulename, {wildcards.experiment, *together})
        ]
        return math.ceil(max(found) * _growth(attempt))

    return asked


def runtime(minutes: int, together: Collection[str] = ()) -> Callable[..., int]:
    """As `memory`, the time of a job in minutes; what goes on where it was stopped gets no more at later attempts."""

    def asked(wildcards: Wildcards, attempt: int, rulename: str) -> int:
        found = [
            given.hours * 60 if given else minutes for given in _allotments(rulename, {wildcards.experiment, *together})
        ]
        return math.ceil(max(found) * (1 if rulename in RESUMED else _growth(attempt)))

    return asked


def _allotments(rule: str, experiments: Collection[str]) -> list[Allotment | None]:
    clusters = [_params().experiment(name).cluster or {} for name in experiments]
    return [cluster.get(rule) for cluster in clusters]  # type: ignore[call-overload]


def _growth(attempt: int) -> float:
    return (1 + min(attempt, 3)) / 2


def seconds(config: Config) -> list[str]:
    """The measured seconds of all experiments in `run`."""
    params = _params()
    return [
        str(Paths(name).seconds(layer)) for name in experiments(config) for layer in params.experiment(name).timed()
    ]


@cache
def _modules(script: str, *excludes: str) -> list[str]:
    """`script` and every module of rpg that it imports, at any depth, with the data that lies beside one."""
    root = Path(__file__).parent.parent
    # What `rpg.generate` is made of is imported on its first use, and no layer uses it.
    finder = ModuleFinder([str(root)], excludes=["rpg.generation", *excludes])
    finder.run_script(str(root / script))
    found = [getattr(module, "__file__", None) for module in finder.modules.values()]
    modules = {Path(path) for path in found if path}
    modules |= {data for path in modules if (data := path.with_suffix(".safetensors")).is_file()}
    paths = sorted(str(path.relative_to(root)) for path in modules)
    return [path for path in paths if path not in _FREE]


def _tasks_but(kind: str = "") -> list[str]:
    """The modules of the tasks that not every experiment has, and whose code only those that do depend on."""
    others = ("segmentation", "detection", "commonsense", "custom", "fine_tuning")
    return [f"rpg.tasks.{other}" for other in others if other != kind]


@cache
def code(rule: str) -> list[str]:
    """The files that `rpg <rule>` is made of: its module and every module of rpg it imports, its rule, the packages."""
    modules = {*_modules(f"rpg/{rule}.py", *(() if rule == "report" else _tasks_but()))}
    modules |= {"rpg/layers.py", "rpg/paths.py", "rpg/params.py", "rpg/seeds.py"}
    return [*sorted(modules), f"workflow/rules/{rule}.smk", "environment.yml"]


def prepare(config: Config) -> None:
    """Before Snakemake looks at the results, whose times it takes for more than they are."""
    distrust_tables(config)
    mend_times()


def distrust_tables(config: Config) -> None:
    """Give results/tables.md the oldest time and no history if scores behind it are missing, as in a fresh clone.

    The tables live in git, and Snakemake makes missing files anew only for a job that has to run for another reason:
    a clone's tables would pass for finished. Older than the code they depend on, they are made from scratch.
    """
    tables = RESULTS / "tables.md"
    # Inside a stage of dvc.yaml it is DVC that deleted the scores, and that knows whether the tables come next.
    if (
        "DVC_STAGE" not in os.environ
        and tables.exists()
        and not all(Paths(name).scores.exists() for name in experiments(config))
    ):
        # Not 0, which Snakemake takes for no time at all.
        os.utime(tables, (1, 1))
        for path in RESULTS.glob("*.*"):
            Path(".snakemake/metadata", base64.b64encode(bytes(path)).decode()).unlink(missing_ok=True)


def mend_times() -> None:
    """Give what the layers read and is of a time to come, as after a clock was set back, the present time.

    Content counts here and not time, but Snakemake stops where an output is older than its input.
    """
    now = time.time()
    for folder, _, names in os.walk(RESULTS):
        # A zoo's networks, which are many, are read by way of their manifest.
        for name in names:
            if name.endswith((".json", ".csv")) or name in (*TOKENS, *MODEL):
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime > now:
                        os.utime(path, (now, now))


def start(workflow: Any) -> None:
    """What is left to do before the first job, where it is no dry run.

    WorkflowError with one line for each data set or model that jobs of this run need and that is not there.
    """
    # Snakemake 9.27.1 takes this lock in its handler of SIGTERM (snakemake/scheduling/job_scheduler.py). The handler
    # runs in the thread that may hold the lock already: of a plain lock that thread would wait for itself, for ever.
    workflow.scheduler._lock = threading.RLock()
    if workflow.touch:
        # `rpg ledger pull` takes artifacts for finished where there are no data to make them from.
        return
    params = _params()
    asked: dict[str, set[str]] = {}
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in LAYERS:
            asked.setdefault(job.wildcards.experiment, set()).add(job.rule.name)
    lines = [
        line
        for name, layers in sorted(asked.items())
        for line in missing(params.experiment(name), params.data_root, layers)
    ]
    if lines:
        raise WorkflowError("\n".join(dict.fromkeys(lines)))
    if workflow.local_exec:
        # Jobs that run here start when they can. Snakemake 9's limit of jobs per second starts a timer with every job,
        # each of which has all jobs looked at once a second until the end: a tenth of a core (snakemake/snakemake
        # issue 2967).
        workflow.scheduler.job_rate_limiter = None
