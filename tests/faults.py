"""What each layer of the miniature with task codes, which has every layer, reads and leaves."""

import shutil
from pathlib import Path

from conftest import TASKS_LAYERS

VERBS = (*TASKS_LAYERS, "tables")
# Layer → what it writes, below results/tasks.
WRITES = {
    "base": ["base"],
    "zoo": ["zoo"],
    "collect": ["zoo/checkpoints.json"],
    "tokens": ["tokens"],
    "train": ["rpg", "seconds/train.json"],
    "tune": ["tune", "seconds/tune.json"],
    "hypernetwork": ["hypernetwork", "seconds/hypernetwork.json"],
    "sample": ["samples", "seconds/sample.json"],
    "score": ["scores.json", "answers.safetensors", "metrics.json", "test.json"],
    "novelty": ["novelty.json", "novelty.csv"],
    "tables": ["README.md"],
}
# What is at work alone, and what it goes on from.
AT_WORK = ("finished.json", "state", "kept")


def contents(results: Path) -> dict[str, bytes]:
    """Every artifact below `results`, by its path there.

    Without measured times, what a run at work has finished, and the configuration, which the plain commands leave out.
    """
    return {
        path.relative_to(results).as_posix(): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file()
        and not path.name.startswith(("seconds", "config.yaml", "."))
        and not {"seconds", *AT_WORK} & set(path.relative_to(results).parts)
    }


def _by(verb: str) -> list[str]:
    """What `verb` and the layers after it write."""
    return [name for later in VERBS[VERBS.index(verb) :] for name in WRITES[later]]


def remove(results: Path, verb: str) -> None:
    """Remove what `verb` and the layers after it have written."""
    for path in [*(results / "tasks" / name for name in _by(verb)), *results.glob("*.*")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def made(expected: dict[str, bytes], verb: str) -> dict[str, bytes]:
    """Of the artifacts `expected` in the end, those that are there when `verb` has ended."""
    if verb == "tables":
        return expected
    later = [f"tasks/{name}" for name in _by(VERBS[VERBS.index(verb) + 1])]
    return {
        path: data
        for path, data in expected.items()
        if "/" in path and not any(path == name or path.startswith(f"{name}/") for name in later)
    }
