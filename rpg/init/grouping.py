"""Which checkpoints belong to one training run: rules on their paths."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rpg.tasks.custom.runs import grouped

# The run is the folder of the checkpoint.
BY_FOLDER = r"(.*)/"
# The run is the path without the count of epochs or steps, and without the suffix: seed-0_epoch=3.pth is of seed-0.
BY_COUNTER = (
    r"^(.*?)[/_.-]*(?:(?:epoch|step|iter|iteration|checkpoint|ckpt|round)s?[_=-]?\d+[-_]?)+"
    r"/*((?:[^.]|\.(?!(?:pth\.)?\w+$))*)"
)


@dataclass(frozen=True)
class Grouping:
    """The value of `zoo.state_from`, and the rule in words."""

    state_from: str | None
    rule: str


def group(paths: Sequence[str], are_runs: bool) -> Grouping:
    """Return how `paths` belong to runs; `are_runs` says that they are folders of several checkpoints each.

    Checkpoints of several folders, some with more than one, are one run for each folder. Otherwise checkpoints whose
    paths differ in a count of epochs or steps alone are one run. Otherwise each checkpoint is a run of its own.
    """
    if are_runs:
        return Grouping(None, "each folder is a run")
    folders = Counter(str(Path(path).parent) for path in paths)
    # The expression finds no folder in the path of a file in the working folder.
    if len(folders) > 1 and max(folders.values()) > 1 and "." not in folders:
        return Grouping(BY_FOLDER, "the checkpoints of a folder are a run")
    if len(grouped(paths, BY_COUNTER)) < len(paths) and all(re.search(BY_COUNTER, path) for path in paths):
        return Grouping(BY_COUNTER, "checkpoints that differ in their count of epochs or steps are a run")
    return Grouping(None, "each checkpoint is a run; --state-from groups them")
