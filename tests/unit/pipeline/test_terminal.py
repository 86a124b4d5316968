"""What a run shows: a line for each finished job, and what else Snakemake says but for its lines about jobs."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from snakemake_interface_logger_plugins.common import LogEvent

from rpg.paths import METRICS, Paths
from rpg.pipeline.terminal import Job, JobHandler
from rpg.reports.promises import PROMISES
from rpg.stages import STAGES
from rpg.utils.files import write_json

MEANS = {"rpg": 96.8, "original": 97.3}
JOBS = {1: Job("zoo", "mini 0000-0001"), 2: Job("train", "mini"), 3: Job("tables")}


class Others(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def record(text: str = "", **facts: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, **facts})


@pytest.fixture
def handler() -> JobHandler:
    return JobHandler(Others(), JOBS, cores=1)


def test_jobs_have_the_seconds_of_their_stage() -> None:
    assert [job.weight for job in JOBS.values()] == [STAGES["zoo"].seconds, STAGES["train"].seconds, 2]


def test_one_line_for_each_finished_job(capsys: pytest.CaptureFixture[str]) -> None:
    handler = JobHandler(Others(), JOBS, cores=1)
    handler.emit(record(event=LogEvent.JOB_INFO, jobid=1))
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=1))
    # Snakemake says it twice of a group of jobs; and one that is not of this run is none of these.
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=1))
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=9))
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=2))
    handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=3))
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"3 jobs, about {STAGES['zoo'].seconds + STAGES['train'].seconds + 2:.0f} s left"
    assert [re.sub(" +", " ", re.sub(r"^\d\d:\d\d:\d\d  |, .*", "", line)) for line in lines] == [
        "zoo mini 0000-0001 0 s 1 of 3 jobs",
        "train mini 0 s 2 of 3 jobs",
        "tables 0 s 3 of 3 jobs",
    ]
    assert lines[-1].endswith("3 of 3 jobs, done")


def test_other_messages_are_left_as_they_are(handler: JobHandler) -> None:
    for event in (LogEvent.JOB_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.SHELLCMD):
        handler.emit(record("hidden", event=event, jobid=1))
    handler.emit(record("Select jobs to execute..."))
    handler.emit(record("Execute 2 jobs..."))
    handler.emit(record("Error in rule zoo:", event=LogEvent.JOB_ERROR))
    handler.emit(record("Nothing to be done"))
    assert handler.others.messages == ["Error in rule zoo:", "Nothing to be done"]


def test_the_last_job_of_an_experiment_shows_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {kind: {"mean": mean, "std": 0.0, "min": mean, "best": mean, "n": 1} for kind, mean in MEANS.items()}
    write_json(Paths("mini").file("score.test"), {"metric": "top1", "parameters": 9, "differences": {}, **scores})
    jobs = {1: Job("score", "mini"), 2: Job("novelty", "mini"), 3: Job("score", "other")}
    handler = JobHandler(Others(), jobs, cores=1)
    lines = []
    for number in (1, 2, 3):
        handler.emit(record(event=LogEvent.JOB_FINISHED, job_id=number))
        lines.append(capsys.readouterr().err.splitlines()[-1].strip())
    assert lines[0].endswith("left")
    assert lines[1] == "mini: top1 of RPG's samples 96.8 %, of the originals 97.3 %"
    # A file that cannot be read does not stop the run.
    assert lines[2].startswith("other: results/other/test.json: missing")


def test_broken_promises_are_shown_after_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = json.loads((ROOT / "results/metrics.json").read_text())
    write_json(METRICS, entries)
    JobHandler(Others(), {1: Job("tables")}, cores=1).emit(record(event=LogEvent.JOB_FINISHED, job_id=1))
    assert "Warning" not in capsys.readouterr().err
    spoiled = entries["experiments"]["facts-dora-r4"]
    spoiled["rpg"]["mean"] = 0.5 * spoiled["original"]["mean"]
    write_json(METRICS, entries)
    JobHandler(Others(), {1: Job("tables")}, cores=1).emit(record(event=LogEvent.JOB_FINISHED, job_id=1))
    heading, line = capsys.readouterr().err.splitlines()[-2:]
    assert heading.startswith("Warning: 1 of ")
    assert line == f"  facts-dora-r4: rpg is 0.5, promised is at least {PROMISES['facts-dora-r4']['rpg']}"
