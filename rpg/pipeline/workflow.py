"""Functions for Snakemake's rules: targets, inputs, values of params.yaml, resources and source files per stage.

The rules in workflow/rules/ have no logic of their own; dvc.yaml (rpg.pipeline.dvc) uses the same functions.
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
from rpg.pipeline import forkserver
from rpg.pipeline.prerequisites import missing
from rpg.pipeline.terminal import show_jobs
from rpg.sources import code, has_peer, joint_code, source_files
from rpg.stages import READS_DATA, STAGES, SUMMARIES, artifact
from rpg.tasks.config import Run, TaskConfig
from rpg.utils.errors import UserError

# Settings of glibc's allocator: tensors of up to 32 MB come from the heap, and the heap keeps up to 1 GB of free
# memory. By default glibc returns memory to the kernel many times per step and gets it back page by page. 32 MB is
# glibc's maximum here. Larger tensors in the heap would leave holes: a network of 111 M weights would need 23 GB or
# more instead of 20.
MALLOC = f"glibc.malloc.mmap_threshold={32 * 2**20}:glibc.malloc.trim_threshold={2**30}"
# The prefix of each command. `exec` replaces the shell: a cluster sends SIGTERM to all processes of a job, and a shell
# would end, and Snakemake with it, before the command has saved its state.
COMMAND_PREFIX = f"export GLIBC_TUNABLES={MALLOC}; exec "
# Fewer jobs take less time than a fork server's imports.
WORTH_SERVING = 3

# Added to the priority of the first experiment in `run`; more than the priority of any stage.
FIRST = 100


# Snakemake's `config`: params.yaml, with the chosen `run`.
Config = Mapping[str, Any]


class Wildcards(Protocol):
    """Snakemake's wildcards of the rules here."""

    experiment: str
    shard: str
    ablation: str
    joint: str


@cache
def _params() -> Params:
    try:
        params = load_params()
    except UserError as error:
        raise WorkflowError(str(error)) from None
    for name, experiment in params.experiments.items():
        # Report faults here, because an input function would report them with a traceback.
        if fault := experiment.task.check_files():
            raise WorkflowError(f"params.yaml: experiments.{name}.{fault}")
    return params


@cache
def _shards(experiment: str) -> dict[str, list[Run]]:
    return _params().experiment(experiment).shards()


def load_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved params.yaml, with `run` from `snakemake --config run=...` if given.

    Raises WorkflowError with one line if params.yaml or `given` has a fault.
    """
    try:
        for key in given:
            if key != "run":
                raise UserError(f"--config {key}: only run can be chosen there; set every other key in params.yaml")
        params = _params()
        if "run" in given:
            run = [given["run"]] if isinstance(given["run"], str) else given["run"]
            params = params.covering(list(map(str, run)), "--config")
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return params.model_dump()


def experiments(config: Config) -> list[str]:
    """Return the experiments in `run`, which the tables cover."""
    return [name for name in config["run"] if name in _params().experiments]


def ablations() -> list[str]:
    """Return the ablations of params.yaml that vary RPG."""
    return [name for name, one in _params().ablations.items() if not one.peers]


def comparisons() -> list[str]:
    """Return the ablations of params.yaml whose variants are generators."""
    return [name for name, one in _params().ablations.items() if one.peers]


def ablations_to_run(config: Config) -> list[str]:
    """Return the ablations in `run`, which the tables also cover."""
    return [name for name in config["run"] if name in _params().ablations]


def ablation(wildcards: Wildcards) -> dict[str, Any]:
    """Return the block of an ablation, for the rule's `params:`."""
    return _params().ablation(wildcards.ablation).model_dump()


def trials(wildcards: Wildcards) -> list[str]:
    """Return an ablation's inputs: the trials' models and scores, and distances and wanted numbers if it has them."""
    params = _params()
    names = ["train.config", "score.scores"]
    ablation = params.ablation(wildcards.ablation)
    names += ["novelty.rows"] if ablation.novelty else []
    names += ["train.seconds", "sample.seconds"] if ablation.peers else []
    names += ["wanted.summary"] if params.experiment(ablation.experiment).wanted else []
    files: dict[Path, None] = {}
    for trial in params.trials(wildcards.ablation):
        paths = paths_of(params, trial)
        more = ["prompts.rows", "prompts.summary"] if params.experiment(trial).prompts else []
        files |= dict.fromkeys(paths.file(name) for name in [*names, *more])
    return [*map(str, files), *source_files(SUMMARIES["ablation"].code)]


def values(stage: str) -> Callable[[Wildcards], dict[str, Any]]:
    """Return a function for the rule's `params:`: the blocks of a stage. Snakemake reruns the stage if they change.

    The blocks of one shard of the zoo exclude the runs of other shards.
    """

    def chosen(wildcards: Wildcards) -> dict[str, Any]:
        experiment = _params().experiment(wildcards.experiment)
        if not STAGES[stage].sharded:
            return experiment.model_dump(include=set(STAGES[stage].blocks))
        shards = _shards(wildcards.experiment)
        if wildcards.shard not in shards:
            raise WorkflowError(f"shard {wildcards.shard}: not in this zoo; known: {', '.join(shards)}")
        return experiment.recipe(shards[wildcards.shard])

    return chosen


def inputs(stage: str) -> Callable[[Wildcards], list[str]]:
    """Return a function for the rule's `input:`: artifacts, files of the benchmark, and source files of a stage."""

    def files(wildcards: Wildcards) -> list[str]:
        params, name = _params(), wildcards.experiment
        experiment, paths = params.experiment(name), paths_of(params, name)
        artifacts = [file for read in STAGES[stage].reads for file in _files_of(read, name, paths)]
        for reads in conditional_reads(stage, experiment, paths).values():
            artifacts += reads
        if STAGES[stage].sharded:
            # A shard depends on its own runs only.
            artifacts += experiment.task.shard_reads(experiment.zoo, _shards(name).get(wildcards.shard, []))
        return [*dict.fromkeys(map(str, artifacts)), *source_files(code(stage, experiment.task, has_peer(experiment)))]

    return files


def _files_of(name: str, experiment: str, paths: Paths) -> list[Path]:
    """Return the files of an artifact, "stage.artifact": one, or one per shard."""
    path = paths.file(name)
    if "{shard}" not in str(path):
        return [path]
    return [Path(str(path).format(shard=shard)) for shard in _shards(experiment)]


def conditional_reads(stage: str, experiment: Experiment, paths: Paths) -> dict[str, list[Path]]:
    """Return reason → files that a stage reads for this experiment, but not for every experiment."""
    reads = {
        why: [paths.file(name) for name in names]
        for why, names in STAGES[stage].reads_if.items()
        if experiment.has(why)
    }
    return reads | (experiment.task.reads(stage, experiment) if STAGES[stage].task_code else {})


def outputs(stage: str) -> dict[str, str]:
    """Return a stage's artifacts by name, with Snakemake's wildcards, for the rule's `output:`."""
    return {name: f"{RESULTS}/{{experiment}}/{path}" for name, path in STAGES[stage].writes.items()}


def job_path(stage: str, folder: str, suffix: str) -> str:
    """Return the path of a job's file, as "logs/{experiment}/zoo-{shard}.log"."""
    shard = "-{shard}" if STAGES[stage].sharded else ""
    return f"{folder}/{{experiment}}/{stage}{shard}{suffix}"


def shard_option(stage: str) -> Callable[[Wildcards], str]:
    """Return a function for the rule's `params:`: the option --shard of the job, or "" without shards."""

    def option(wildcards: Wildcards) -> str:
        return f" --shard {wildcards.shard}" if STAGES[stage].sharded else ""

    return option


def joint(wildcards: Wildcards) -> dict[str, Any]:
    """Return a joint experiment and the blocks that train its RPG, for the rule's `params:`."""
    block = _params().joint_experiment(wildcards.joint)
    recipe = _params().joint_recipe(wildcards.joint, block.seeds[0])
    return {**block.model_dump(), **recipe.model_dump(include={"model", "diffusion", "train", "tune", "sample"})}


def joint_inputs(wildcards: Wildcards) -> list[str]:
    """Return a joint experiment's inputs: the members' tokens, and the scores and seconds of their own generators."""
    params = _params()
    block = params.joint_experiment(wildcards.joint)
    files: list[Path] = []
    for name in block.members:
        paths, experiment = paths_of(params, name), params.experiment(name)
        stages = ["train", *(["tune"] if experiment.tune else [])]
        names = [f"tokens.{key}" for key in STAGES["tokens"].writes] + ["score.metrics", "score.test"]
        files += [paths.file(read) for read in (*names, *(f"{stage}.seconds" for stage in stages))]
    tasks = [params.experiment(name).task for name in block.experiments]
    return [*map(str, files), *source_files(joint_code(tasks))]


def tables_reads(params: Params, names: Iterable[str]) -> list[Path]:
    """Return the artifacts of the experiments `names` that the tables read."""
    return [
        Paths(name).file(artifact)
        for name in names
        # The first two hold the digests of test.json and novelty.csv.
        for artifact in (
            "score.scores",
            "novelty.summary",
            *(f"{stage}.seconds" for stage in params.experiment(name).timed()),
        )
    ]


def tables_inputs(config: Config) -> list[str]:
    """Return all inputs of the tables, for the rule's `input:`."""
    return [
        *map(str, tables_reads(_params(), experiments(config))),
        *(str(ablation_file(name)) for name in ablations_to_run(config)),
        *source_files(SUMMARIES["tables"].code),
    ]


def task_label(task: TaskConfig) -> str:
    """Return a label of the benchmark and its data set, as "classification-digits"."""
    return "-".join(dict.fromkeys([task.kind.replace("_", "-"), task.dataset]))


def memory(stage: str, config: Config) -> Callable[..., int]:
    """Return a function for the rule's `resources:`: a job's megabytes, from the `cluster` block or the stage.

    The second attempt gets 1.5 times as much, later attempts twice as much.
    """

    def requested(wildcards: Wildcards, attempt: int) -> int:
        megabytes = STAGES[stage].memory_mb
        candidates = [given.memory_gb * 1000 if given else megabytes for given in _allotments(stage, wildcards, config)]
        return math.ceil(max(candidates) * _growth(attempt))

    return requested


def runtime(stage: str, config: Config) -> Callable[..., int]:
    """Return a function for the rule's `resources:`: a job's minutes, growing with the attempts as in `memory`.

    A resumable stage always gets the same time, because each attempt continues the last one.
    """

    def requested(wildcards: Wildcards, attempt: int) -> int:
        minutes = STAGES[stage].minutes
        candidates = [given.hours * 60 if given else minutes for given in _allotments(stage, wildcards, config)]
        return math.ceil(max(candidates) * (1 if STAGES[stage].resumable else _growth(attempt)))

    return requested


def priority(stage: str, config: Config) -> Callable[[Wildcards], int]:
    """Return a function for the rule's `priority:`: the stage's, and more for the first experiment in `run`.

    So a run shows its first row early.
    """
    first = next(iter(experiments(config)), None)

    def of_job(wildcards: Wildcards) -> int:
        return STAGES[stage].priority + (FIRST if wildcards.experiment == first else 0)

    return of_job


def _allotments(stage: str, wildcards: Wildcards, config: Config) -> list[Allotment | None]:
    # A job array gets the resources of its first job, so all shards request the maximum over all experiments.
    together = experiments(config) if stage == "zoo" else []
    return [
        (_params().experiment(name).cluster or {}).get(stage)
        for name in dict.fromkeys([wildcards.experiment, *together])
    ]


def _growth(attempt: int) -> float:
    return (1 + min(attempt, 3)) / 2


def prepare(config: Config) -> None:
    """Correct misleading file times before Snakemake reads them."""
    outdate_tables_without_scores(config)
    reset_future_times()


def outdate_tables_without_scores(config: Config) -> None:
    """Set results/tables.md to the oldest time and delete its record if scores are missing, as in a fresh clone.

    The tables are in git, and Snakemake makes missing inputs only for a job that must run for another reason. So a
    clone's tables would count as finished. Tables older than their code are made from scratch.
    """
    tables = RESULTS / "tables.md"
    # Inside a stage of dvc.yaml, DVC itself deleted the scores and decides whether to make the tables.
    if (
        "DVC_STAGE" not in os.environ
        and tables.exists()
        and not all(Paths(name).file("score.scores").exists() for name in experiments(config))
    ):
        # Not 0, because Snakemake reads 0 as a missing time.
        os.utime(tables, (1, 1))
        for path in RESULTS.glob("*.*"):
            Path(".snakemake/metadata", base64.b64encode(bytes(path)).decode()).unlink(missing_ok=True)


def reset_future_times() -> None:
    """Set the stages' input files with a future time, as after a clock was set back, to the present time.

    Snakemake compares contents here, but it stops if an output is older than its input.
    """
    now = time.time()
    names_read = {
        Path(artifact(name)).name for stage in STAGES.values() for name in stage.reads if "{" not in artifact(name)
    }
    for folder, _, names in os.walk(RESULTS):
        # Skip the zoo's many networks: stages depend on their manifest.
        for name in names:
            if name.endswith((".json", ".csv")) or name in names_read:
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    if path.stat().st_mtime > now:
                        os.utime(path, (now, now))


def start(workflow: Any) -> None:
    """Check prerequisites, write configurations and show the jobs, before the first job of a real run.

    Raises WorkflowError with one line per missing data set or model of this run's jobs.
    """
    # Snakemake 9.27.1 takes this lock in its handler of SIGTERM (snakemake/scheduling/job_scheduler.py). The handler
    # runs in a thread that may already hold the lock. With a plain lock this thread would wait for itself forever.
    workflow.scheduler._lock = threading.RLock()
    if workflow.touch:
        # `rpg ledger pull` marks artifacts as finished, and needs no data sets.
        return
    params = _params()
    requested: dict[str, set[str]] = {}
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in READS_DATA:
            requested.setdefault(job.wildcards.experiment, set()).add(job.rule.name)
    lines = [
        line
        for name, stages in sorted(requested.items())
        for line in missing(params.experiment(name), params.data_root, stages)
    ]
    if lines:
        raise WorkflowError("\n".join(dict.fromkeys(lines)))
    names = {job.wildcards_dict.get("experiment") for job in workflow.dag.needrun_jobs()}
    write_configs(params, [name for name in params.experiments if name in names])
    show_jobs(workflow)
    if workflow.local_exec:
        of_stages = [job.wildcards.experiment for job in workflow.dag.needrun_jobs() if job.rule.name in STAGES]
        if len(of_stages) >= WORTH_SERVING:
            kinds = {name: params.experiment(name).task.kind for name in sorted(set(of_stages))}
            forkserver.start(kinds, {"GLIBC_TUNABLES": MALLOC})
        # Local jobs need no limit of jobs per second. Snakemake 9's limiter starts a timer with every job. Each timer
        # makes the scheduler check all jobs once a second until the end, which takes a tenth of a core
        # (snakemake/snakemake issue 2967).
        workflow.scheduler.job_rate_limiter = None
