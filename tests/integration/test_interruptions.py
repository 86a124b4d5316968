"""Faults of whole runs, through Snakemake and DVC: docs/reliability.md has them in a table."""

import functools
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from checkouts import clone, commit, ledger, make_checkout, make_repository, planned, run_in, snakemake
from conftest import run_layers, write_params
from faults import contents

pytestmark = pytest.mark.integration
COMMAND = ("snakemake", "--cores", "2", "--", "results/tables.md")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


def started(checkout: Path) -> subprocess.Popen[str]:
    """`snakemake` at work, with a process group of its own."""
    return subprocess.Popen(
        COMMAND, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_snakemake_killed_with_its_jobs(number: int, kills: int, checkout: Path, finished: Path) -> None:
    expected, draw = contents(finished / "results"), random.Random(number)
    for kill in range(kills):
        process = started(checkout)
        time.sleep(draw.uniform(5, 12))
        # Later ones find most of the work done, and may be over.
        assert kill or process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, number)
        told, _ = process.communicate(timeout=300)
        assert contents(checkout / "results").items() <= expected.items(), told
    snakemake(checkout, *COMMAND[1:])
    assert contents(checkout / "results") == expected
    assert planned(checkout) == {}


def test_two_runs_at_once_in_one_checkout(checkout: Path, finished: Path) -> None:
    runs = [started(checkout) for _ in range(2)]
    told = [run.communicate()[0] for run in runs]
    assert not any("Traceback" in text for text in told), told
    # Whichever had to give way; the other is right, or the next one is.
    snakemake(checkout, *COMMAND[1:])
    assert contents(checkout / "results") == contents(finished / "results")
    assert planned(checkout) == {}


def test_clock_set_back(checkout: Path, tmp_path: Path) -> None:
    """What a run with a clock that was ahead has left is of tomorrow; what is changed now seems older."""
    snakemake(checkout, *COMMAND[1:])
    tomorrow = time.time() + 86400
    for path in [*(checkout / "results").rglob("*"), *(checkout / ".snakemake").rglob("*")]:
        os.utime(path, (tomorrow, tomorrow))
    assert planned(checkout) == {}
    write_params(checkout, sample={"seed": 1})
    snakemake(checkout, *COMMAND[1:])
    assert planned(checkout) == {}
    write_params(tmp_path, sample={"seed": 1})
    run_layers(tmp_path, "zoo", "collect", "tokens", "train", "sample", "score", "novelty", "tables")
    assert contents(checkout / "results") == contents(tmp_path / "results")


@contextmanager
def served(folder: Path, answers: int) -> Iterator[str]:
    """The URL of a server of `folder` that breaks every connection after so many answers."""
    left = answers

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                super().do_GET()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_lost_connection_to_the_remote(tmp_path: Path) -> None:
    repository, remote = make_repository(tmp_path / "repository"), tmp_path / "remote"
    snakemake(repository, *COMMAND[1:])
    run_in(repository, "dvc", "remote", "add", "--default", "store", str(remote))
    # A remote that cannot be written to: a file lies in its place.
    remote.write_text("")
    assert_one_line(ledger(repository, "push", ok=False))
    remote.unlink()
    ledger(repository, "push")
    commit(repository)

    other = clone(repository, tmp_path / "other")
    for answers in (0, 5):
        with served(remote, answers) as url:
            run_in(other, "dvc", "remote", "modify", "--local", "store", "url", url)
            assert_one_line(ledger(other, "pull", ok=False))
        found, expected = contents(other / "results"), contents(repository / "results")
        assert found.items() <= expected.items()
    with served(remote, 10_000) as url:
        run_in(other, "dvc", "remote", "modify", "--local", "store", "url", url)
        ledger(other, "pull")
    assert contents(other / "results") == contents(repository / "results")
    assert planned(other) == {}


def assert_one_line(told: str) -> None:
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("rpg: error: "), told
