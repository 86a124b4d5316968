"""What a run shows: one line for each finished job, a progress bar with an estimate on a terminal, errors in full.

Snakemake's own output, several lines of file names for each job, stays in .snakemake/log. With `--verbose`,
`--printshellcmds` or a logger plugin, Snakemake's output is left as it is.
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

from rpg.stages import STAGES

# Events and messages that the lines of the jobs stand for.
HIDDEN_EVENTS = {LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.SHELLCMD}
HIDDEN_MESSAGES = ("Select jobs to execute", "Execute ")
# Of a rule that is no stage of an experiment.
FEW_SECONDS = 2


@dataclass(frozen=True)
class Job:
    """A job to be done: its rule, the experiment or ablation, and the shard if there is one."""

    rule: str
    of: str = ""

    @property
    def weight(self) -> float:
        """Seconds that such a job takes in the default run on two cores of a laptop."""
        return STAGES[self.rule].seconds if self.rule in STAGES else FEW_SECONDS


class JobHandler(logging.Handler):
    """Shows jobs of Snakemake by its log records; `others` shows all other records.

    `jobs`: id → job; `cores` run at once.
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
        """The time that is left, in words: by the seconds of the jobs that are done, or by those of a laptop."""
        whole, done = (sum(self.jobs[one].weight for one in ids) for ids in (self.jobs, self.done))
        seconds = (whole - done) / self.cores
        if done:
            seconds = (whole - done) * (time.monotonic() - self.begin) / done
        if len(self.done) == len(self.jobs):
            return "done"
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {max(seconds, 1):.0f} s left"

    def line(self, text: str) -> None:
        """Show one line, above the bar if there is one."""
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
        """Show the line of a finished job, and the progress."""
        if number not in self.jobs or number in self.done:
            return
        self.done.add(number)
        job, seconds = self.jobs[number], time.monotonic() - self.started.get(number, self.begin)
        text = f"{time.strftime('%H:%M:%S')}  {job.rule:13} {job.of:30} {seconds:6.0f} s"
        if self.bar:
            self.bar.update(self.task, completed=len(self.done), description=self.left())
        else:
            text += f"   {len(self.done)} of {len(self.jobs)} jobs, {self.left()}"
        self.line(text)
        if len(self.done) == len(self.jobs):
            self.close()

    @contextmanager
    def hidden_bar(self) -> Iterator[None]:
        """Without the bar, which other output would tear."""
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


def show_jobs(workflow: Any) -> None:
    """Have the jobs of this run shown by `JobHandler`, in place of Snakemake's lines, if it shows these."""
    settings = workflow.output_settings
    shown = [handler for handler in logger.handlers if handler.name == "DefaultStreamHandler"]
    quiet = {Quietness.ALL, Quietness.RULES, Quietness.PROGRESS} & set(settings.quiet or ())
    if not shown or settings.verbose or settings.printshellcmds or quiet:
        return
    jobs = {}
    for job in workflow.dag.needrun_jobs():
        wildcards = job.wildcards_dict
        of = " ".join(str(wildcards[name]) for name in ("experiment", "ablation", "shard") if name in wildcards)
        jobs[workflow.dag.jobid(job)] = Job(job.rule.name, of)
    if not jobs:
        return
    (others,) = shown
    logger.removeHandler(others)
    resources = workflow.resource_settings
    logger.addHandler(JobHandler(others, jobs, resources.cores or resources.nodes or 1))
