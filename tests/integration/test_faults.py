"""The promises of docs/reliability.md: after any fault the next run ends in the right bytes, or in one line."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, run_layers
from faults import AT_WORK, VERBS, contents, made, remove
from safetensors.torch import load_file
from small_disk import run

PYTHONPATH = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
# Of each signal, per layer.
KILLS = 2
# Artifacts, below results/tasks → the layers that read them.
READERS = {
    "base/*": ["zoo", "score"],
    "zoo/*/*": ["collect"],
    "zoo/*.json": ["tokens", "score"],
    "tokens/*": ["train", "tune", "hypernetwork", "sample", "score", "novelty"],
    "rpg/*": ["tune"],
    "tune/*": ["sample"],
    "hypernetwork/*": ["sample"],
    "samples/*": ["score", "novelty"],
    "*.json": ["tables"],
    "*.csv": ["tables"],
    "seconds/*": ["tables"],
}


def layer(folder: Path, verb: str) -> None:
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        run_layers(folder, verb, experiment="tasks")


def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "rpg.training.tune",
            "rpg.training.hypernetwork",
            "rpg.evaluation.novelty",
            "rpg.reports.tables",
            "conftest",
            "timm",
        ]
    )
    return context


@pytest.fixture(scope="module", autouse=True)
def _path_of_the_fork_server() -> Iterator[None]:
    """It starts with the environment alone: without this it imports nothing beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PYTHONPATH)
        # Its start would be measured with the first layer.
        first = _server().Process(target=int)
        first.start()
        first.join()
        yield


def start(folder: Path, verb: str) -> multiprocessing.process.BaseProcess:
    """The layer, in a process of its own that has imported most of what it needs: a kill falls into its work."""
    process = _server().Process(target=layer, args=(folder, verb))
    process.start()
    return process


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_killed_anywhere_it_ends_in_the_same_bytes(verb: str, tasks: Path, tmp_path: Path) -> None:
    expected, draw, results = contents(tasks / "results"), random.Random(VERBS.index(verb)), tmp_path / "results"
    shutil.copytree(tasks, tmp_path, dirs_exist_ok=True)
    remove(results, verb)
    began = time.perf_counter()
    whole = start(tmp_path, verb)
    whole.join()
    seconds = time.perf_counter() - began
    assert whole.exitcode == 0
    assert contents(results) == made(expected, verb)
    for number in (signal.SIGKILL, signal.SIGTERM):
        remove(results, verb)
        hits = 0
        while hits < KILLS:
            began = time.perf_counter()
            process = start(tmp_path, verb)
            time.sleep(draw.uniform(0, seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)
            process.join()
            # Training saves its state and ends by itself.
            if process.exitcode not in (-number, 128 + number):
                assert process.exitcode == 0
                # The first may have taken longer than those after it, which all kills would then come too late for.
                seconds = min(seconds, time.perf_counter() - began)
                remove(results, verb)
                continue
            hits += 1
            # Nothing under a final name is half-written, and nothing that was there before is lost.
            left = contents(results)
            assert left.items() <= made(expected, verb).items()
            assert all(name in left for name in made(expected, VERBS[VERBS.index(verb) - 1]) if verb != "base")
            for state in results.rglob("state.safetensors"):
                assert "facts" in load_file(state)
        last = start(tmp_path, verb)
        last.join()
        assert last.exitcode == 0
        assert contents(results) == made(expected, verb)
        assert not [path for path in results.rglob("*") if path.name.startswith(".") or path.name in AT_WORK]


@pytest.mark.long
def test_full_and_read_only_disks_are_one_line_and_the_next_run_is_right(tasks: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, ROOT / "tests/small_disk.py", tasks]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 3 * len(VERBS)
    for case, one in found.items():
        verb, _, fault = case.partition(", ")
        expected = one["at_last"]
        # A small artifact may still have had its place.
        assert one["code"] in ((0, 2) if fault.isdigit() and fault != "0" else (2,)), (case, one["lines"])
        if one["code"]:
            (line,) = one["lines"]
            why = "Read-only file system" if fault == "read-only" else "No space left on device"
            assert line.startswith("rpg: error: "), case
            assert why in line, case
        assert one["after"].items() <= expected.items(), case
        assert one["before"].items() <= one["after"].items(), case
        assert not one["hidden"], case
        assert one["again"] == 0, case
        assert expected.keys() == made(contents(tasks / "results"), verb).keys(), case


@pytest.mark.long
@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "empty"])
def test_damaged_artifact_is_one_line_or_does_not_matter(damage: str, tasks: Path, tmp_path: Path) -> None:
    draw, results = random.Random(damage), tmp_path / "results"
    shutil.copytree(tasks, tmp_path, dirs_exist_ok=True)
    expected, told = contents(results), 0
    for pattern, readers in READERS.items():
        files = sorted(path for path in (results / "tasks").glob(pattern) if path.is_file())
        assert files, pattern
        # Of the networks, of which there are many, some.
        for path in draw.sample(files, min(len(files), 5)):
            whole = path.read_bytes()
            place = draw.randrange(len(whole))
            path.write_bytes(
                {
                    "truncated": whole[:place],
                    "bit flipped": whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :],
                    "empty": b"",
                }[damage]
            )
            for reader in readers:
                code, lines = run(tmp_path, reader)
                assert code == 0 or (code == 2 and lines[-1].startswith("rpg: error: ")), (path, reader, lines)
                told += code == 2
            path.write_bytes(whole)
            # Also what those have written that did not mind.
            found = contents(results)
            assert found.items() <= expected.items(), (path, readers)
            for name in expected.keys() - found.keys():
                (results / name).parent.mkdir(parents=True, exist_ok=True)
                (results / name).write_bytes(expected[name])
    # What is not read, as a log, does not count; the rest does.
    assert told >= 30
