"""What the user asks `rpg init` for, and the blocks of the experiment that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rpg.config.params import message_of
from rpg.tasks.adapters import CONFIG
from rpg.tasks.custom.config import CustomTask
from rpg.tasks.custom.reading import INDEX, SUFFIXES, check_distributed, is_checkpoint
from rpg.tasks.custom.runs import expanded
from rpg.tasks.custom.task import Custom
from rpg.utils.errors import UserError
from rpg.utils.metric import PERCENT


@dataclass(frozen=True)
class InitRequest:
    """What the user says about a zoo; the names are those of the options."""

    name: str
    checkpoints: Sequence[str]
    build: str | None = None
    score: str | None = None
    metric: str | None = None
    unit: str = PERCENT.unit
    lower_is_better: bool = False
    state_from: str | None = None
    held_out: Sequence[str] = ()
    facts: Path | None = None
    weights: str | None = None
    only: Sequence[str] = ()
    # The shell's further matches of a pattern without quotes.
    further: Sequence[str] = ()


def block(kind: type[Any], name: str, tree: dict[str, Any]) -> Any:
    """Return a block of the experiment; UserError with the first fault."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, (name, *fault["loc"])))
        raise UserError(f"{where}: {message_of(fault)}") from error


def matched(request: InitRequest) -> list[str]:
    """Return what the patterns match, each path once; UserError if one matches nothing."""
    matches: list[str] = []
    for pattern in request.checkpoints:
        own = [path for path in expanded([pattern]) if Path(path).exists()]
        if not own:
            raise UserError(f"--checkpoints {pattern}: nothing matches; quote the pattern, or correct it")
        matches += [path for path in own if path not in matches]
    return matches


def task_block(request: InitRequest, matches: Sequence[str]) -> CustomTask:
    """Return the block `task`; without --build, an adapter's folder stands for its settings."""
    tree: dict[str, Any] = {"kind": "custom"}
    if request.build:
        tree["build"] = request.build
    elif adapter := next((folder for path in matches for folder in _adapter_folders(Path(path))), None):
        tree["adapter"] = str(adapter)
    if request.score and not request.build:
        raise UserError("--score: needs the network; add --build")
    of_score = (request.metric, request.unit != PERCENT.unit, request.lower_is_better)
    if request.score:
        tree |= {"score": request.score, "metric": request.metric or request.score.partition(":")[2]}
        tree |= {"unit": request.unit, "lower_is_better": request.lower_is_better}
    elif any(of_score):
        option = ("metric", "unit", "lower-is-better")[list(map(bool, of_score)).index(True)]
        raise UserError(f"--{option}: belongs to a score; add --score")
    return block(CustomTask, "task", tree)


def _adapter_folders(path: Path) -> list[Path]:
    """Return the folders of adapters in a match, at most two folders below it."""
    if path.is_file():
        return [path.parent] if (path.parent / CONFIG).is_file() else []
    return [config.parent for depth in ("", "*/", "*/*/") for config in sorted(path.glob(f"{depth}{CONFIG}"))]


def run_entries(request: InitRequest, matches: Sequence[str], task: Custom) -> tuple[list[str], bool]:
    """Return the entries of `zoo.runs`, and whether they are folders of several checkpoints each.

    Raises UserError if checkpoints and folders of checkpoints are mixed, or if a match is neither.
    """
    # torch.distributed.checkpoint names a process's file so; a pattern leaves out the index beside it.
    parts = (Path(path).parent if path.endswith(".distcp") else Path(path) for path in matches)
    for part in dict.fromkeys(parts):
        if part.is_dir():
            check_distributed(part)
    if any(_stands_for_folder(Path(path), task) for path in matches):
        # The weights of transformers and peft need the files beside them.
        return list(dict.fromkeys(str(Path(path).parent) for path in matches)), False
    if odd := next((path for path in matches if Path(path).is_file() and not is_checkpoint(Path(path))), None):
        raise UserError(
            f"--checkpoints: {odd} is no checkpoint ({' '.join(SUFFIXES)}); give a pattern that leaves it out"
        )
    several = {path: len(task.checkpoints(Path(path))) > 1 for path in matches}
    if len(set(several.values())) > 1 and not request.state_from:
        folder = next(path for path, is_run in several.items() if is_run)
        other = next(path for path, is_run in several.items() if not is_run)
        raise UserError(f"--checkpoints: {folder} has several checkpoints, but {other} is one; match either kind alone")
    return list(request.checkpoints), next(iter(several.values())) and not request.state_from


def _stands_for_folder(path: Path, task: Custom) -> bool:
    return path.is_file() and (path.name.endswith(INDEX) or (task.adapters and (path.parent / CONFIG).is_file()))
