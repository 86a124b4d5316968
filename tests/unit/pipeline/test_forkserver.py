"""Jobs from the fork server behave as jobs in processes of their own."""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from rpg.pipeline import forkserver
from rpg.pipeline.forkserver import ADDRESS, ELSEWHERE, Request, Server, delegate
from rpg.pipeline.usage import USAGE

TOKENS = ("tokens", "--experiment", "digits-vit", "--threads", "1")
PATIENCE = 60


@pytest.fixture(scope="module", autouse=True)
def hangup() -> Iterator[None]:
    """Under nohup the tests, and all processes that they start, would ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def lifeline() -> Iterator[int]:
    """A running server, which has imported everything that it needs."""
    descriptor = forkserver.start({"digits-vit": "classification"}, {})
    yield descriptor
    folder = Path(os.environ.pop(ADDRESS)).parent
    os.close(descriptor)
    wait_until(lambda: not folder.exists())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with params.yaml and without artifacts."""
    (tmp_path / "params.yaml").symlink_to(ROOT / "params.yaml")
    return tmp_path


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rpg", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The tests themselves may run in the background, where Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(true: object) -> None:
    end = time.monotonic() + PATIENCE
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def jobs() -> list[psutil.Process]:
    """The forks that run a job: children of the process with the libraries of the experiment's task."""
    address = os.environ[ADDRESS]
    parents = {one.pid: one for one in psutil.process_iter() if address in cmdline(one)}
    return [one for one in parents.values() if one.ppid() in parents and parents[one.ppid()].ppid() in parents]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def waiting(lifeline: int, folder: Path) -> Iterator[subprocess.Popen]:
    """A command whose job waits for a lock that this process holds."""
    tokens = folder / "results/digits-vit/tokens"
    tokens.mkdir(parents=True)
    lock = os.open(tokens, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = command(folder, *TOKENS)
    assert process.stderr
    assert "waiting for another run" in process.stderr.readline()
    yield process
    os.close(lock)
    process.wait(PATIENCE)


def test_a_job_answers_as_in_a_process_of_its_own(lifeline: int, folder: Path) -> None:
    warm, alone = command(folder, *TOKENS), command(folder, *TOKENS, **{ADDRESS: ""})
    assert warm.communicate(timeout=PATIENCE) == alone.communicate(timeout=PATIENCE)
    assert warm.returncode == alone.returncode == 2


def test_a_job_has_the_libraries_of_its_task(waiting: subprocess.Popen) -> None:
    """They are imported before the fork: a job that has only begun to wait has timm's dependency in its memory."""
    (job,) = jobs()
    assert "torchvision" in Path(f"/proc/{job.pid}/maps").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_job(waiting: subprocess.Popen, number: signal.Signals) -> None:
    waiting.send_signal(number)
    assert waiting.wait(PATIENCE) == -number
    wait_until(lambda: not jobs())


def test_an_interrupt_ends_a_job_with_the_shell_s_code(waiting: subprocess.Popen) -> None:
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(PATIENCE) == 128 + signal.SIGINT


def test_a_killed_command_takes_its_job_along(waiting: subprocess.Popen) -> None:
    assert jobs()
    waiting.kill()
    wait_until(lambda: not jobs())


def test_a_killed_job_ends_its_command_in_the_same_way(waiting: subprocess.Popen) -> None:
    """As the kernel kills a process that takes too much memory."""
    jobs()[0].kill()
    assert waiting.wait(PATIENCE) == -signal.SIGKILL


def test_a_stopped_command_stops_its_job(waiting: subprocess.Popen) -> None:
    (job,) = jobs()
    waiting.send_signal(signal.SIGTSTP)
    wait_until(lambda: job.status() == psutil.STATUS_STOPPED)
    # A shell, too, continues a command only after the command has stopped.
    wait_until(lambda: psutil.Process(waiting.pid).status() == psutil.STATUS_STOPPED)
    waiting.send_signal(signal.SIGCONT)
    wait_until(lambda: job.status() == psutil.STATUS_SLEEPING)


def test_usage_is_that_of_the_job(lifeline: int, folder: Path) -> None:
    """A command that fails leaves no file."""
    failed = command(folder, *TOKENS, **{USAGE: str(folder / "failed.tsv")})
    done = command(folder, "zoo", "--help", "--threads", "1", **{USAGE: str(folder / "logs/done.tsv")})
    assert (failed.wait(PATIENCE), done.wait(PATIENCE)) == (2, 0)
    assert not (folder / "failed.tsv").exists()
    names, numbers = (line.split("\t") for line in (folder / "logs/done.tsv").read_text().splitlines())
    usage = dict(zip(names, map(float, numbers), strict=True))
    assert usage.keys() == {"s", "cpu_time", "max_rss"}
    assert 0 < usage["cpu_time"] < 10
    # More than the command that waits, which imports no torch.
    assert 100 < usage["max_rss"] < 4000


@pytest.mark.parametrize("arguments", [("tokens", "--threads", "2"), ("tables",), ("tokens", "--threads")])
def test_other_commands_run_in_their_own_process(lifeline: int, arguments: tuple[str, ...]) -> None:
    """The server's libraries have one thread each."""
    assert delegate(os.environ[ADDRESS], arguments) is None


def test_without_a_server_a_command_runs_in_its_own_process(tmp_path: Path) -> None:
    assert delegate(str(tmp_path / "socket"), TOKENS) is None


@pytest.mark.parametrize("changed", ["code", "environment"])
def test_a_job_that_the_server_would_run_otherwise_runs_elsewhere(changed: str) -> None:
    """A job that starts after an edit runs the new code: Snakemake records the new code's digest for it.

    With `--sdm conda` Snakemake runs a job in another environment than its own.
    """
    server, (ours, theirs) = Server({}), socket.socketpair()
    server.keep()
    message = {"prefix": sys.prefix, "arguments": []}
    if changed == "code":
        server.times[next(iter(server.times))] -= 1
    else:
        message["prefix"] += "/other"
    server.dispatch(Request(theirs, json.dumps(message).encode(), []))
    assert ours.recv(5) == ELSEWHERE


def test_a_change_of_a_benchmark_s_code_is_seen_where_it_was_imported(lifeline: int, folder: Path) -> None:
    """The process with the libraries of a kind of task imports files that the server has not imported."""
    command(folder, *TOKENS).communicate(timeout=PATIENCE)
    tokens, file = folder / "results/digits-vit/tokens", ROOT / "rpg/tasks/classification/networks.py"
    tokens.mkdir(parents=True, exist_ok=True)
    lock, before = os.open(tokens, os.O_RDONLY), file.stat()
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    try:
        process = command(folder, *TOKENS)
        assert process.stderr
        assert "waiting for another run" in process.stderr.readline()
        assert not jobs()
    finally:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.close(lock)
    assert process.wait(PATIENCE) == 2


def test_a_command_survives_the_server_s_end(tmp_path: Path) -> None:
    """It says what to do, and fails."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    process = command(tmp_path, *TOKENS, **{ADDRESS: str(tmp_path / "socket")})
    connection, _ = listener.accept()
    header, files, _, _ = socket.recv_fds(connection, 4, 3)
    assert (len(header), len(files)) == (4, 3)
    assert b"digits-vit" in connection.recv(struct.unpack("!I", header)[0])
    for file in files:
        os.close(file)
    connection.close()
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert error == "rpg: error: the fork server ended before the job; run the command again\n"


def test_the_server_ends_after_its_last_job(folder: Path) -> None:
    tokens = folder / "results/digits-vit/tokens"
    tokens.mkdir(parents=True)
    lock = os.open(tokens, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    before = os.environ.get(ADDRESS)
    descriptor = forkserver.start({}, {})
    address = os.environ[ADDRESS]
    process = command(folder, *TOKENS)
    if before is None:
        del os.environ[ADDRESS]
    else:
        os.environ[ADDRESS] = before
    assert process.stderr
    assert "waiting for another run" in process.stderr.readline()
    os.close(descriptor)
    time.sleep(0.1)
    assert Path(address).exists()
    os.close(lock)
    assert process.wait(PATIENCE) == 2
    wait_until(lambda: not Path(address).parent.exists())


def test_a_job_may_start_before_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake starts its first job in less time than the server starts Python."""
    monkeypatch.setenv(ADDRESS, "")
    descriptor = forkserver.start({}, {})
    with socket.socket(socket.AF_UNIX) as early:
        # Nobody has listened at this address for longer than the line above takes.
        early.connect(os.environ[ADDRESS])
    os.close(descriptor)
    wait_until(lambda: not Path(os.environ[ADDRESS]).parent.exists())
