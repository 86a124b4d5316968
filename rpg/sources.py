"""The source files of each stage: dependencies for Snakemake and DVC, and the code that saved states belong to.

Paths start from the current folder, as in Snakemake's rules and in dvc.yaml.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rpg.stages import ALWAYS, STAGES, SUMMARIES
from rpg.utils.errors import UserError
from rpg.utils.files import sha256

if TYPE_CHECKING:
    from rpg.config.experiment import Experiment
    from rpg.tasks.config import TaskConfig

# Files in a benchmark's folder that no stage depends on: blocks of params.yaml, texts, formats of other programs.
NOT_COMPUTING = ("__init__.py", "config.py", "card.py", "report.py", "export.py")
# Suffixes of source files, including data inside the package.
SUFFIXES = (".py", ".js", ".safetensors", ".yml")


def check_checkout() -> None:
    """Raise UserError if the current folder is a checkout whose code is not the running one.

    One environment holds one checkout. In another clone or worktree the command `rpg` would run the code of the first,
    and record it as that of the second.
    """
    here, running = Path("rpg/sources.py"), Path(__file__)
    if here.is_file() and not here.samefile(running):
        raise UserError(
            f"the code that runs is that of {running.parent.parent}, not of this checkout; call `python -m rpg` here,"
            " or install this checkout with `make`"
        )


def has_peer(experiment: "Experiment") -> bool:
    """Return whether another generator is in RPG's place."""
    return experiment.model.generator is not None


def code(stage: str, task: "TaskConfig", peer: bool = False) -> list[str]:
    """Return the source files and folders of a stage for an experiment with this task.

    `peer`: another generator is in RPG's place.
    """
    further = STAGES[stage].peer_code if peer else ()
    own = [*STAGES[stage].code, *further, *ALWAYS]
    if STAGES[stage].task_code or further:
        folder = type(task).__module__.split(".")[-2]
        files = (file.as_posix() for file in Path("rpg/tasks", folder).glob("*.py") if file.name not in NOT_COMPUTING)
        own += [*task.code(), *files]
    return sorted(set(own))


def joint_code(tasks: "Iterable[TaskConfig]") -> list[str]:
    """Return the source files and folders of a joint training for members with these tasks."""
    return [*SUMMARIES["joint"].code, *dict.fromkeys(file for task in tasks for file in code("tune", task))]


def source_files(entries: Iterable[str]) -> list[str]:
    """Return the files among `entries`, and the source files in the folders among `entries`."""
    return [file for entry in entries for file in (_folder_files(entry) if Path(entry).is_dir() else (entry,))]


@cache
def _folder_files(folder: str) -> tuple[str, ...]:
    return tuple(sorted(str(file) for file in Path(folder).rglob("*") if file.suffix in SUFFIXES and file.is_file()))


def code_digest(stage: str, task: "TaskConfig", peer: bool = False) -> str:
    """Return the SHA-256 of `code`, by which a job that was stopped knows whether its code is still the same."""
    return digest_of(code(stage, task, peer))


def digest_of(entries: Iterable[str]) -> str:
    """Return the SHA-256 of the paths and bytes of the source files among `entries`; a missing file counts as such."""
    digest = hashlib.sha256()
    for file in source_files(entries):
        content = sha256(Path(file)) if Path(file).is_file() else "missing"
        digest.update(f"{file} {content}\n".encode())
    return digest.hexdigest()
