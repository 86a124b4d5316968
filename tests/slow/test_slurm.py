"""The profile for SLURM, on a real one: jobs that are stopped, starved or put back come back, and nothing else changes.

Where SLURM's packages can't be installed these tests are skipped, and say why.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import RULES, make_checkout, snakemake
from cluster import cluster, install, slurm, wait_for
from conftest import MINIATURE, ROOT, run_layers, write_tree

from rpg.config.presets import resolve

PROFILE = "workflow/profiles/slurm"
# The cluster keeps no accounts, and jobs take seconds.
OPTIONS = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2")

# In place of `python -m rpg`: a training that needs five seconds to save its state when it is told to end.
PATIENT = """
import os
import signal
import sys
import time
from pathlib import Path

events = Path("events.txt").open("a", buffering=1)
parent, told = os.getppid(), []
signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))
print("started", os.environ["SLURM_JOB_ID"], file=events)
while not Path("finish").exists():
    if told and time.monotonic() > told[0] + 5:
        # Were Snakemake gone, SLURM would end the step, and with it what is left of it.
        print("saved" if os.getppid() == parent else "left alone", os.environ["SLURM_JOB_ID"], file=events)
        sys.exit(143)
    time.sleep(0.1)
for name in ("rpg/model.safetensors", "rpg/config.json", "rpg/log.csv", "seconds/train.json"):
    Path("results/mini", name).write_text("{}")
"""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a cluster's logs, while it runs."""
    if reason := install():
        pytest.skip(f"no SLURM to test with: {reason}")
    folder = tmp_path_factory.mktemp("cluster")
    with cluster(folder):
        yield folder


def shrunk() -> dict[str, dict]:
    """`digits-resnet` and `digits-vit` with two shards each, few steps and nothing that they can do without."""
    known = resolve(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")["experiments"]
    found = {name: known[name] for name in ("digits-resnet", "digits-vit")}
    for experiment in found.values():
        experiment["zoo"] |= {"seeds": [0, 1], "runs_per_shard": 1, "steps": 40, "saves": 2, "save_every": 2}
        experiment["train"] |= {"steps": 100, "state_every": 10}
        experiment["sample"] |= {"count": 6}
        experiment["novelty"] |= {"networks": 4}
    del found["digits-vit"]["tune"]
    # Only an attempt that gets more has enough.
    found["digits-resnet"]["cluster"] = {"collect": {"memory_gb": 1, "hours": 1 / 60}}
    found["digits-vit"]["cluster"] = {"tokens": {"memory_gb": 0.5, "hours": 1}}
    return found


class Run:
    """Snakemake with the profile, running in `folder` until the block ends."""

    def __init__(self, folder: Path, *targets: str) -> None:
        self.log = folder / "snakemake.log"
        command = ["snakemake", "--profile", PROFILE, *OPTIONS, "--", *targets]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def job(self, rule: str, experiment: str) -> str:
        """The id of a running job, as soon as there is one."""
        comment = f"rule_{rule}_wildcards_{experiment}"

        def found() -> str:
            lines = slurm("squeue", "--noheader", "--states=R", "--format=%i %k").splitlines()
            return next((line.split()[0] for line in lines if line.split()[1] == comment), "")

        return self.wait(found)

    def wait(self, found: Callable[[], Any], seconds: float = 240) -> Any:
        """As `wait_for`; AssertionError with Snakemake's output if it ends before."""

        def running() -> Any:
            assert self.process.poll() is None, self.log.read_text()
            return found()

        return wait_for(running, seconds)

    def finish(self, seconds: float) -> str:
        """Snakemake's output, when it has ended well."""
        assert self.process.wait(seconds) == 0, self.log.read_text()
        return self.log.read_text()


def command_of(layer: str, experiment: str, folder: Path) -> int:
    """The process of `rpg <layer>` in `folder`, or 0."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            called = words[1:4] == [b"-m", b"rpg", layer.encode()] and experiment.encode() in words
            if called and (path / "cwd").resolve() == folder:
                return int(path.name)
        except OSError:
            continue
    return 0


def asked(text: str, rule: str, experiment: str, resource: str) -> list[int]:
    """What each attempt of a job asked for, in Snakemake's output."""
    line = r"(?:    .*\n)*?    "
    found = re.findall(
        rf"rule {rule}:\n{line}wildcards: experiment={experiment}\n{line}resources: .*\b{resource}=(\d+)", text
    )
    return [int(number) for number in found]


def files(folder: Path) -> dict[str, bytes]:
    """What results/ holds, without measured times."""
    paths = [path for path in (folder / "results").rglob("*") if path.is_file() and "seconds" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def trainings_are_told_to_end(checkout: Path, logs: Path) -> None:
    """A training ends by itself before its time is over, at scancel, and for a job that takes its place.

    In `checkout` everything is finished; all trainings are one job, which comes back after each of them.
    """
    # A job of a minute is told up to a minute before that second.
    profile = yaml.safe_load((checkout / PROFILE / "config.yaml").read_text())
    extra = profile["set-resources"]["train"]["slurm_extra"].replace("@120", "@1")
    profile["set-resources"]["train"] = {"slurm_partition": "spare", "gres": "seat:1", "slurm_extra": extra}
    (checkout / PROFILE / "config.yaml").write_text(yaml.safe_dump(profile))
    snakemake(checkout, "--touch", "--forceall", "--cores", "1", "results/tables.md")
    shutil.rmtree(checkout / "results/mini/rpg")
    (checkout / "rpg/__main__.py").write_text(PATIENT)
    events = checkout / "events.txt"

    def happened() -> list[list[str]]:
        return [line.split() for line in events.read_text().splitlines()] if events.exists() else []

    with Run(checkout, "results/mini/rpg/model.safetensors") as run:
        for count, stop in (
            (1, None),
            (3, "scancel {job}"),
            (5, "sbatch --partition=urgent --gres=seat:1 --mem=100 --output=/dev/null --wrap=true"),
        ):
            run.wait(lambda count=count: len(happened()) == count)
            job = happened()[-1][1]
            if stop:
                slurm(*stop.format(job=job).split())
            run.wait(lambda count=count: len(happened()) == count + 1)
            assert happened()[-1] == ["saved", job]
        run.wait(lambda: len(happened()) == 7)
        (checkout / "finish").touch()
        # Not when Snakemake has ended: it looks for jobs' ends the more rarely the longer none has ended well.
        run.wait((checkout / "results/mini/rpg/log.csv").exists)
        text = run.log.read_text()
    started = [job for event, job in happened() if event == "started"]
    # Snakemake's retries after the first two; SLURM itself puts the third back in the queue.
    assert len(set(started)) == 3
    assert started[2] == started[3]
    assert f"SLURM-job '{started[0]}' failed, SLURM status is: 'FAILED'" in text
    assert f"SLURM-job '{started[1]}' failed, SLURM status is: 'CANCELLED'" in text
    assert f"preempted JobId={started[2]} has been requeued" in (logs / "slurmctld.log").read_text()


def test_jobs_that_are_stopped_come_back_and_artifacts_are_those_of_a_local_run(
    logs: Path, tmp_path: Path, finished: Path
) -> None:
    checkout, local, told = make_checkout(tmp_path / "cluster"), tmp_path / "local", make_checkout(tmp_path / "told")
    local.mkdir()
    write_tree(told, mini={**MINIATURE, "cluster": {"train": {"memory_gb": 2, "hours": 1 / 60}}})
    shutil.copytree(finished / "results", told / "results")
    for folder in (checkout, local):
        write_tree(folder, **shrunk())
    with Run(checkout, "results/tables.md") as run, ThreadPoolExecutor() as beside:
        # All shards of both experiments are one array; with two GPUs, two of its tasks run at once.
        tasks = run.wait(lambda: slurm("squeue", "--array", "--noheader", "--format=%F_%K %T %P").splitlines())
        assert len(tasks) == 4, tasks
        assert {line.split()[2] for line in tasks} == {"gpu"}
        array = tasks[0].split("_")[0]
        assert {line.split()[0] for line in tasks} == {f"{array}_{index}" for index in range(1, 5)}
        # A node that is drained finishes what it does and starts nothing else.
        node = slurm("sinfo", "--noheader", "--format=%n")
        run.wait(lambda: "R" in slurm("squeue", "--noheader", "--format=%t"))
        slurm("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        run.wait(lambda: slurm("sinfo", "--noheader", "--format=%T") == "drained")
        waiting = slurm("squeue", "--array", "--noheader", "--format=%t").splitlines()
        assert set(waiting) == {"PD"}
        assert 2 <= len(waiting) < 4
        slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
        endings = beside.submit(trainings_are_told_to_end, told, logs)
        # A job that hangs is stopped when its time is over.
        hanging = run.wait(lambda: command_of("collect", "digits-resnet", checkout))
        os.kill(hanging, signal.SIGSTOP)
        collect = run.job("collect", "digits-resnet")
        assert "TimeLimit=00:01:00" in slurm("scontrol", "show", "job", collect)
        # A training that is stopped, after it has saved its state once, goes on.
        train = run.job("train", "digits-vit")
        run.wait((checkout / "results/digits-vit/rpg/state/state.safetensors").exists)
        slurm("scancel", train)
        run_layers(local, *RULES[:-1], experiment="digits-resnet")
        run_layers(local, *RULES, experiment="digits-vit")
        text = run.finish(400)
        endings.result()
    assert re.search(r"Submitted array job with Snakemake IDs [\d,]+ and SLURM job ID " + array, text)
    assert f"SLURM-job '{collect}' failed, SLURM status is: 'TIMEOUT'" in text
    assert f"SLURM-job '{train}' failed, SLURM status is: 'CANCELLED'" in text
    assert "train: going on from step" in (checkout / "logs/digits-vit/train.log").read_text()
    # More time, and more memory, for those that had too little.
    assert asked(text, "collect", "digits-resnet", "runtime") == [1, 2]
    assert asked(text, "tokens", "digits-vit", "mem_mb") in ([500, 750], [500, 750, 1000])
    assert "exceeded memory limit" in (logs / "slurmd.log").read_text()
    assert "localrule tables:" in text
    assert files(checkout) == files(local)
    assert "Nothing to be done" in snakemake(checkout, "--cores", "1", "results/tables.md")
