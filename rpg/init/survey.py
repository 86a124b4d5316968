"""Look at the checkpoints of a zoo: what they have in common, and what RPG would generate."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rpg.init.makers import maker
from rpg.tasks.custom.config import GivenZoo
from rpg.tasks.custom.reading import ReadRun, cosine
from rpg.tasks.custom.task import Custom
from rpg.tasks.stack import StateDict
from rpg.tokenizer.canonical import pairs
from rpg.tokenizer.copied import Copied, copied_tensors
from rpg.utils.errors import UserError

# Bytes of checkpoints that are read whole; of a larger zoo, the first and the last checkpoint of each run.
MOST_BYTES = 2**32
# From this cosine between the last checkpoints of two runs, the runs started from one network.
ONE_START = 0.5


@dataclass
class Survey:
    """The checkpoints of a zoo: run → their paths, those that were read, and what they have in common."""

    task: Custom
    zoo: GivenZoo
    runs: dict[str, list[Path]]
    read: list[Path]
    # Of the first checkpoint: the tool that wrote it.
    maker: str
    notes: dict[str, None] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)
    copies: dict[str, str] = field(default_factory=dict)
    # Names of runs whose checkpoints are as different as separate runs.
    unlike: list[str] = field(default_factory=list)
    # The cosines of the last checkpoints of neighbouring runs.
    likeness: list[float] = field(default_factory=list)

    @property
    def checkpoints(self) -> list[Path]:
        """The paths of all checkpoints."""
        return [path for paths in self.runs.values() for path in paths]

    @property
    def one_start(self) -> bool:
        """Whether the runs are alike, as those that started from one network are."""
        return bool(self.likeness) and sorted(self.likeness)[len(self.likeness) // 2] >= ONE_START

    def state_dicts(self) -> Iterator[StateDict]:
        """Yield the checkpoints that were read."""
        for path in self.read:
            yield self.task.read(path, self.zoo.weights)[0]

    def copied(self, rotated: bool, only: Collection[str] | None) -> Copied:
        """Return the tensors that samples copy; `rotated`: low-rank pairs get their canonical form."""
        return copied_tensors(self.state_dicts, self.task.buffers, self.task.tied, rotated, only)


def survey(task: Custom, zoo: GivenZoo) -> Survey:
    """Read the checkpoints of a zoo, run by run.

    Raises UserError that names the checkpoint if one can't be read or is of another network, and if there are not two.
    """
    runs = {name: task.run_checkpoints(zoo, name) for name in zoo.names}
    paths = [path for of_run in runs.values() for path in of_run]
    if len(paths) < 2:
        raise UserError(f"{paths[0]}: is the only checkpoint; RPG learns from two or more")
    whole = sum(_bytes(path) for path in paths) <= MOST_BYTES
    found = Survey(task, zoo, runs, [], maker(paths[0]))
    last: StateDict | None = None
    digests: set[str] = set()
    kinds: dict[str, torch.dtype] = {}
    for name, of_run in runs.items():
        read = ReadRun(name)
        for path in of_run if whole else dict.fromkeys([of_run[0], of_run[-1]]):
            state_dict, notes = task.read(path, zoo.weights)
            found.notes |= dict.fromkeys(notes)
            kinds = kinds or {own: tensor.dtype for own, tensor in state_dict.items()}
            if odd := next((own for own, tensor in state_dict.items() if tensor.dtype != kinds[own]), None):
                types = " and ".join(str(kind).removeprefix("torch.") for kind in (state_dict[odd].dtype, kinds[odd]))
                raise UserError(
                    f"{path}: tensor '{odd}' is of another type than in {paths[0]}, {types}; save all in one type"
                )
            if read.is_new(path, state_dict):
                found.read.append(path)
        if last and read.last:
            found.likeness.append(cosine(last, read.last))
        last = read.last
        found.copies |= read.copies
        digests |= read.names.keys()
        found.dtypes |= read.dtypes
        if read.is_unlike:
            found.unlike.append(name)
    if len(digests) < 2:
        raise UserError(f"{paths[0]}: all checkpoints are the same; RPG learns from two or more")
    return found


def _bytes(path: Path) -> int:
    if path.name.endswith(".index.json"):
        path = path.parent
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())


def low_rank(state_dict: StateDict) -> bool:
    """Return whether a state dict has low-rank pairs, as those of LoRA and DoRA."""
    return any(pairs(state_dict))
