"""List what results/ takes on the disk, and delete what nobody needs: `rpg clean`."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rpg.config.params import Params
from rpg.reports.formatting import table
from rpg.utils.errors import UserError, counted, suggestion
from rpg.utils.files import RESULTS

# What a stopped job goes on from: the state of a training, answers that are kept, finished runs of a shard.
STATES = ("state", "kept", "finished.json")


@dataclass(frozen=True)
class ResultsFolder:
    """The folder `name` of results/, and what params.yaml has under this name."""

    name: str
    kind: str
    files: Sequence[Path]

    @property
    def states(self) -> list[Path]:
        """The files that belong to saved states."""
        return [file for file in self.files if not set(STATES).isdisjoint(file.parts)]

    def row(self) -> dict[str, str]:
        """Return the row of the listing."""
        times = [file.lstat().st_mtime for file in self.files]
        return {
            "results of": self.name,
            "in params.yaml": self.kind,
            "MB": f"{size(self.files):,.1f}",
            "files": f"{len(self.files):,}",
            "saved states MB": f"{size(self.states):,.1f}",
            "last change": datetime.fromtimestamp(max(times), UTC).strftime("%Y-%m-%d") if times else "-",
        }


def size(files: Iterable[Path]) -> float:
    """Return the megabytes (10^6 bytes) of the files; several links to one file count once."""
    found = {(stat.st_dev, stat.st_ino): stat.st_size for stat in (file.lstat() for file in files)}
    return sum(found.values()) / 1e6


def entries(params: Params, results: Path = RESULTS) -> list[ResultsFolder]:
    """Return the folders of results/, the largest first."""
    found = [
        ResultsFolder(folder.name, _kind(params, folder.name), [*_files(folder)])
        for folder in sorted(results.iterdir() if results.is_dir() else [])
        if folder.is_dir() and not folder.is_symlink()
    ]
    return sorted(found, key=lambda entry: size(entry.files), reverse=True)


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _kind(params: Params, name: str) -> str:
    if name in params.experiments:
        return "experiment, in run" if name in params.run else "experiment"
    if name in params.ablations:
        return "ablation, in run" if name in params.run else "ablation"
    return "joint experiment" if name in params.joint else "-"


def clean(params: Params, names: Sequence[str], unlisted: bool, states: bool, delete: bool) -> None:
    """Print the folders of results/, or delete some of them.

    `names` and `unlisted`, the folders that params.yaml does not have, choose folders; with `states` only their saved
    states go, or those of all folders if none is chosen. Without `delete` nothing is deleted. Files that git tracks
    stay. Raises UserError for an unknown name, or if a job writes into one of the folders.
    """
    every = entries(params)
    known = [entry.name for entry in every]
    for name in names:
        if name not in known:
            raise UserError(f"no folder {RESULTS / name}{suggestion(name, known)}")
    chosen = [entry for entry in every if entry.name in names or (unlisted and entry.kind == "-")]
    if states and not names and not unlisted:
        chosen = every
    if not chosen:
        print(_listing(every))
        return
    tracked = _tracked()
    doomed = [file for entry in chosen for file in (entry.states if states else entry.files) if file not in tracked]
    for entry in chosen:
        _check_unlocked(RESULTS / entry.name)
    print(_listing(chosen))
    what = f"{counted(len(doomed), 'file')} with {size(doomed):,.1f} MB"
    if not delete:
        print(f"{what} would go; add --delete")
        return
    for file in doomed:
        file.unlink()
    for entry in chosen:
        _remove_empty(RESULTS / entry.name)
    print(f"deleted {what}")


def _listing(shown: Sequence[ResultsFolder]) -> str:
    if not shown:
        return f"{RESULTS}: no folder"
    total = size(file for entry in shown for file in entry.files)
    free = shutil.disk_usage(RESULTS).free / 1e6
    return f"{table([entry.row() for entry in shown])}\ntogether {total:,.1f} MB; the disk has {free:,.0f} MB left"


def _tracked() -> set[Path]:
    """Return the files of results/ that git tracks; none outside of a repository."""
    try:
        done = subprocess.run(["git", "ls-files", "-z", str(RESULTS)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    return {Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name}


def _check_unlocked(folder: Path) -> None:
    """Raise UserError if a job has locked a folder (`rpg.utils.files.exclusive`)."""
    for parent, _, _ in os.walk(folder):
        handle = os.open(parent, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{parent}: a job writes into this folder; wait for it or stop it") from None
        finally:
            os.close(handle)


def _remove_empty(folder: Path) -> None:
    for parent, folders, files in os.walk(folder, topdown=False):
        if not files and not any(Path(parent, name).exists() for name in folders):
            os.rmdir(parent)
