"""What the rules ask for: targets, inputs, the values in params.yaml, resources and source files of each stage.

The rules in workflow/rules/ hold no logic of their own; dvc.yaml (rpg.pipeline.dvc) uses the same functions.
"""

import base64
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from snakemake.exceptions import WorkflowError

from rpg.config.experiment import Allotment, Experiment
from rpg.config.loading import load_params
from rpg.config.params import Params
from rpg.config.resolved import write_configs
from rpg.paths import RESULTS, Paths, ablation_file, paths_of
from rpg.pipeline.prerequisites import missing
from rpg.pipeline.terminal import show_jobs
from rpg.stages import ALWAYS, READS_DATA, STAGES, SUMMARIES, artifact
from rpg.tasks.config import Run, TaskConfig
from rpg.utils.errors import UserError

# Files of a benchmark's folder that compute nothing: blocks of params.yaml, texts and other programs' formats.
NOT_COMPUTING = ("config.py", "card.py", "report.py", "export.py")
# Suffixes of source files, data that comes with the package included.
SOURCES = (".py", ".js", ".safetensors", ".yml")

# How glibc allocates memory: tensors of up to 32 MB from its heap, of which up to 1 GB is kept when free. Left alone,
# it gives memory back to the kernel many times a step, and gets it again page by page. Larger ones, 32 MB is the most
# that it takes here, would leave holes in the heap: a network of 111 M weights then needs 23 GB or more in place of 20.
MALLOC = f"glibc.malloc.mmap_threshold={32 * 2**20}:glibc.malloc.trim_threshold={2**30}"
# Before each command. It takes the shell's place: of SIGTERM, which a cluster sends to all processes of a job, a shell
# would die before the command has saved its state, and Snakemake with it.
COMMAND_PREFIX = f"export GLIBC_TUNABLES={MALLOC}; exec "


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
        # An input function would report it with a traceback.
        if fault := experiment.task.check_files():
            raise WorkflowError(f"params.yaml: experiments.{name}.{fault}")
    return params


@cache
def _shards(experiment: str) -> dict[str, list[Run]]:
    return _params().experiment(experiment).shards()


def load_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of params.yaml, resolved, with the `run` of `snakemake --config run=...` if that is given.

    Raises WorkflowError, one line, if it has a fault.
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
    names = ["train.config", "score.scores"]
    if params.ablation(wildcards.ablation).novelty:
        names.append("novelty.rows")
    found: dict[Path, None] = {}
    for trial in params.trials(wildcards.ablation):
        paths = paths_of(params, trial)
        found |= dict.fromkeys(paths.file(name) for name in names)
    return [*map(str, found), *source_files(SUMMARIES["ablation"].code)]


def values(stage: str) -> Callable[[Wildcards], dict[str, Any]]:
    """For the rule's `params:`, the blocks that a stage depends on; Snakemake runs it again when they change.

    For one shard of the zoo, without the runs of other shards.
    """

    def chosen(wildcards: Wildcards) -> dict[str, Any]:
        experiment = _params().experiment(wildcards.experiment)
        if not _has_shards(stage):
            return experiment.model_dump(include=set(STAGES[stage].blocks))
        shards = _shards(wildcards.experiment)
        if wildcards.shard not in shards:
            raise WorkflowError(f"shard {wildcards.shard}: not in this zoo; known: {', '.join(shards)}")
        return experiment.recipe(shards[wildcards.shard])

    return chosen


def inputs(stage: str) -> Callable[[Wildcards], list[str]]:
    """For the rule's `input:`, all files that a stage reads: artifacts, what the benchmark names, and source files."""

    def files(wildcards: Wildcards) -> list[str]:
        params, name = _params(), wildcards.experiment
        experiment, paths = params.experiment(name), paths_of(params, name)
        found = [file for read in STAGES[stage].reads for file in _files_of(read, name, paths)]
        for why, reads in more_reads(stage, experiment, paths).items():
            # A shard depends on its own runs alone.
            found += [] if why.startswith("runs-") else reads
        if stage == "zoo":
            found += experiment.task.shard_reads(experiment.zoo, _shards(name).get(wildcards.shard, []))
        return [*dict.fromkeys(map(str, found)), *source_files(code(stage, experiment.task))]

    return files


def _files_of(name: str, experiment: str, paths: Paths) -> list[Path]:
    """The files of an artifact, "stage.artifact": one, or one for each shard."""
    path = paths.file(name)
    if "{shard}" not in str(path):
        return [path]
    return [Path(str(path).format(shard=shard)) for shard in _shards(experiment)]


def more_reads(stage: str, experiment: Experiment, paths: Paths) -> dict[str, list[Path]]:
    """Why → files that a stage reads of this experiment and not of every one."""
    found = {
        why: [paths.file(name) for name in names]
        for why, names in STAGES[stage].reads_if.items()
        if experiment.has(why)
    }
    return found | (experiment.task.reads(stage, experiment) if STAGES[stage].task_code else {})


def outputs(stage: str) -> dict[str, str]:
    """For the rule's `output:`, the artifacts of a stage by name, with Snakemake's wildcards."""
    return {name: f"{RESULTS}/{{experiment}}/{path}" for name, path in STAGES[stage].writes.items()}


def job_path(stage: str, folder: str, suffix: str) -> str:
    """A path for each job of a stage, "logs/{experiment}/zoo-{shard}.log"."""
    shard = "-{shard}" if _has_shards(stage) else ""
    return f"{folder}/{{experiment}}/{stage}{shard}{suffix}"


def shard_option(stage: str) -> Callable[[Wildcards], str]:
    """For the rule's `params:`, the option of the verb that names the job's shard; empty without shards."""

    def option(wildcards: Wildcards) -> str:
        return f" --shard {wildcards.shard}" if _has_shards(stage) else ""

    return option


def _has_shards(stage: str) -> bool:
    return "{shard}" in next(iter(STAGES[stage].writes.values()))


def artifacts(config: Config, *names: str) -> list[str]:
    """The artifacts, "stage.artifact", of all experiments in `run`."""
    return [str(Paths(experiment).file(name)) for name in names for experiment in experiments(config)]


def tables_inputs(config: Config) -> list[str]:
    """For the rule's `input:`, what the tables are made of."""
    params = _params()
    seconds = [
        str(Paths(name).file(f"{stage}.seconds"))
        for name in experiments(config)
        for stage in params.experiment(name).timed()
    ]
    return [
        *artifacts(config, "score.scores", "score.metrics", "novelty.summary", "novelty.rows"),
        *(str(ablation_file(name)) for name in ablations_to_run(config)),
        *seconds,
        *source_files(SUMMARIES["tables"].code),
    ]


def task_label(task: TaskConfig) -> str:
    """The benchmark and its data set in short: "classification-digits"."""
    return "-".join(dict.fromkeys([task.kind.replace("_", "-"), task.dataset]))


def code(stage: str, task: TaskConfig) -> list[str]:
    """Source files and folders that compute a stage of an experiment with that task."""
    own = [*STAGES[stage].code, *ALWAYS]
    if STAGES[stage].task_code:
        folder = type(task).__module__.split(".")[-2]
        files = (file.as_posix() for file in Path("rpg/tasks", folder).glob("*.py") if file.name not in NOT_COMPUTING)
        own += [*task.code(), *files]
    return sorted(set(own))


@cache
def _folder_files(folder: str) -> tuple[str, ...]:
    return tuple(sorted(str(file) for file in Path(folder).rglob("*") if file.suffix in SOURCES and file.is_file()))


def source_files(entries: Iterable[str]) -> list[str]:
    """The files among `entries`, and those in the folders among them."""
    return [file for entry in entries for file in (_folder_files(entry) if Path(entry).is_dir() else (entry,))]


def memory(stage: str, config: Config) -> Callable[..., int]:
    """For the rule's `resources:`, the memory of a job in megabytes: the stage's or that of the `cluster` block.

    The second attempt gets half as much again, the third and later ones twice as much.
    """

    def asked(wildcards: Wildcards, attempt: int) -> int:
        megabytes = STAGES[stage].memory_mb
        found = [given.memory_gb * 1000 if given else megabytes for given in _allotments(stage, wildcards, config)]
        return math.ceil(max(found) * _growth(attempt))

    return asked


def runtime(stage: str, config: Config) -> Callable[..., int]:
    """As `memory`, the time of a job in minutes; a resumable stage gets no more at later attempts."""

    def asked(wildcards: Wildcards, attempt: int) -> int:
        minutes = STAGES[stage].minutes
        found = [given.hours * 60 if given else minutes for given in _allotments(stage, wildcards, config)]
        return math.ceil(max(found) * (1 if STAGES[stage].resumable else _growth(attempt)))

    return asked


def _allotments(stage: str, wildcards: Wildcards, config: Config) -> list[Allotment | None]:
    # A job array gets what its first job asks for, so all shards ask for the most that one experiment needs.
    together = experiments(config) if stage == "zoo" else []
    return [
        (_params().experiment(name).cluster or {}).get(stage)
        for name in dict.fromkeys([wildcards.experiment, *together])
    ]


def _growth(attempt: int) -> float:
    return (1 + min(attempt, 3)) / 2


def prepare(config: Config) -> None:
    """Before Snakemake looks at the results: mend times that it would take for more than they are."""
    outdate_tables_without_scores(config)
    mend_future_times()


def outdate_tables_without_scores(config: Config) -> None:
    """Give results/tables.md the oldest time and no history if scores behind it are missing, as in a fresh clone.

    The tables live in git, and Snakemake makes missing files anew only for a job that has to run for another reason:
    a clone's tables would pass for finished. Older than the code they depend on, they are made from scratch.
    """
    tables = RESULTS / "tables.md"
    # Inside a stage of dvc.yaml it is DVC that deleted the scores, and that knows whether the tables come next.
    if (
        "DVC_STAGE" not in os.environ
        and tables.exists()
        and not all(Paths(name).file("score.scores").exists() for name in experiments(config))
    ):
        # Not 0, which Snakemake takes for no time at all.
        os.utime(tables, (1, 1))
        for path in RESULTS.glob("*.*"):
            Path(".snakemake/metadata", base64.b64encode(bytes(path)).decode()).unlink(missing_ok=True)


def mend_future_times() -> None:
    """Give what the layers read and is of a time to come, as after a clock was set back, the present time.

    Content counts here and not time, but Snakemake stops where an output is older than its input.
    """
    now = time.time()
    names_read = {
        Path(artifact(name)).name for stage in STAGES.values() for name in stage.reads if "{" not in artifact(name)
    }
    for folder, _, names in os.walk(RESULTS):
        # A zoo's networks, which are many, are read by way of their manifest.
        for name in names:
            if name.endswith((".json", ".csv")) or name in names_read:
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
        if job.rule.name in READS_DATA:
            asked.setdefault(job.wildcards.experiment, set()).add(job.rule.name)
    lines = [
        line
        for name, layers in sorted(asked.items())
        for line in missing(params.experiment(name), params.data_root, layers)
    ]
    if lines:
        raise WorkflowError("\n".join(dict.fromkeys(lines)))
    of = {job.wildcards_dict.get("experiment") for job in workflow.dag.needrun_jobs()}
    write_configs(params, [name for name in params.experiments if name in of])
    show_jobs(workflow)
    if workflow.local_exec:
        # Jobs that run here start when they can. Snakemake 9's limit of jobs per second starts a timer with every job,
        # each of which has all jobs looked at once a second until the end: a tenth of a core (snakemake/snakemake
        # issue 2967).
        workflow.scheduler.job_rate_limiter = None
