"""Show a run: one line per finished job, a progress bar with an estimate on a terminal, and errors in full.

Snakemake's own output, several lines of file names per job, goes to .snakemake/log only. With `--verbose`,
`--printshellcmds` or a logger plugin, Snakemake's output stays unchanged.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from rpg.paths import METRICS, Paths
from rpg.stages import STAGES
from rpg.utils.errors import UserError
from rpg.utils.files import read_json
from rpg.utils.progress import time_left

# Events and messages that the lines of the jobs replace.
HIDDEN_EVENTS = {LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.SHELLCMD}
HIDDEN_MESSAGES = ("Select jobs to execute", "Execute ")
# Seconds of a rule that is no stage of an experiment.
FEW_SECONDS = 2
# The stages after which an experiment's row of the tables is complete.
LAST = ("score", "novelty")


@dataclass(frozen=True)
class Job:
    """A job: its rule, and the experiment or ablation, with the shard if there is one."""

    rule: str
    target: str = ""

    @property
    def weight(self) -> float:
        """The seconds of such a job in the default run (`Stage.seconds`)."""
        return STAGES[self.rule].seconds if self.rule in STAGES else FEW_SECONDS


class JobHandler(logging.Handler):
    """Show Snakemake's jobs from its log records; the handler `others` shows all other records.

    `jobs` maps ids to jobs; `cores` jobs run at once.
    """

    def __init__(self, others: logging.Handler, jobs: Mapping[int, Job], cores: int) -> None:
        super().__init__()
        self.others, self.jobs, self.cores = others, jobs, cores
        self.begin, self.started, self.done = time.monotonic(), dict[int, float](), set[int]()
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.completed} of {task.total} jobs"),
                BarColumn(None),
                TextColumn("{task.description}"),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), expand=True, transient=True)
            self.task = self.bar.add_task(self.left(), total=len(jobs))
            self.bar.start()
        else:
            self.line(f"{len(jobs)} jobs, {self.left()}")

    def left(self) -> str:
        """Estimate the remaining time in words, from the finished jobs or, before the first, from the default run."""
        whole, done = (sum(self.jobs[one].weight for one in ids) for ids in (self.jobs, self.done))
        seconds = (whole - done) / self.cores
        if done:
            seconds = (whole - done) * (time.monotonic() - self.begin) / done
        if len(self.done) == len(self.jobs):
            return "done"
        return time_left(seconds)

    def line(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self.bar:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self.started[record.__dict__["jobid"]] = time.monotonic()
        if event == LogEvent.JOB_FINISHED:
            self.finished(record.__dict__["job_id"])
        elif event not in HIDDEN_EVENTS and not str(record.msg).startswith(HIDDEN_MESSAGES):
            with self.hidden_bar():
                self.others.handle(record)

    def finished(self, number: int) -> None:
        """Print the line of a finished job, and update the progress."""
        if number not in self.jobs or number in self.done:
            return
        self.done.add(number)
        job, seconds = self.jobs[number], time.monotonic() - self.started.get(number, self.begin)
        text = f"{time.strftime('%H:%M:%S')}  {job.rule:13} {job.target:30} {seconds:6.0f} s"
        if self.bar:
            self.bar.update(self.task, completed=len(self.done), description=self.left())
        else:
            text += f"   {len(self.done)} of {len(self.jobs)} jobs, {self.left()}"
        self.line(text)
        if self.completes_row(job):
            self.line(f"          {row_text(job.target)}")
        if job.rule == "tables":
            for text in promise_warning():
                self.line(text)
        if len(self.done) == len(self.jobs):
            self.close()

    def completes_row(self, job: Job) -> bool:
        """Return whether the finished `job` is the last one of its experiment in this run."""
        others = [number for number, other in self.jobs.items() if other.target == job.target and other.rule in LAST]
        return job.rule in LAST and self.done.issuperset(others)

    @contextmanager
    def hidden_bar(self) -> Iterator[None]:
        """Hide the bar, because other output would break it."""
        if self.bar:
            self.bar.stop()
        yield
        if self.bar and len(self.done) < len(self.jobs):
            self.bar.start()

    def close(self) -> None:
        """Remove the bar."""
        if self.bar:
            self.bar.stop()
        super().close()


def row_text(experiment: str) -> str:
    """Return the scores of a finished experiment as one line, or the reason why there are none."""
    # Here, because these modules need NumPy, which a dry-run does not.
    from rpg.evaluation.results import Metrics

    try:
        scores = read_json(Paths(experiment).file("score.test"), f"rpg score --experiment {experiment}", Metrics)
    except UserError as error:
        return f"{experiment}: {error}"
    kind = scores.metric_kind
    if kind.is_percent:
        own, original = (f"{of.mean:.1f} %" for of in (scores.rpg, scores.original))
    else:
        own, original = (kind.with_unit(of.mean) for of in (scores.rpg, scores.original))
    return f"{experiment}: {scores.metric} of RPG's samples {own}, of the originals {original}"


def promise_warning() -> list[str]:
    """Return the lines of a warning if results/metrics.json breaks promises."""
    # Here for the same reason.
    from rpg.reports.artifacts import ExperimentResults
    from rpg.reports.promises import warning

    return warning(read_json(METRICS, "rpg tables", ExperimentResults).experiments)


def show_jobs(workflow: Any) -> None:
    """Let `JobHandler` show the jobs of this run if Snakemake would print its own lines."""
    jobs = {}
    for job in workflow.dag.needrun_jobs():
        wildcards = job.wildcards_dict
        target = " ".join(str(wildcards[name]) for name in ("experiment", "ablation", "shard") if name in wildcards)
        jobs[workflow.dag.jobid(job)] = Job(job.rule.name, target)
    if not jobs:
        return
    settings = workflow.output_settings
    shown = [handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"]
    quiet = {Quietness.ALL, Quietness.RULES, Quietness.PROGRESS} & set(settings.quiet or ())
    if not shown or settings.verbose or settings.printshellcmds or quiet:
        return
    (others,) = shown
    logger.removeHandler(others)
    resources = workflow.resource_settings
    logger.addHandler(JobHandler(others, jobs, resources.cores or resources.nodes or 1))
