"""The zoo's manifests: base networks, shards and checkpoints."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from rpg.blocks import PARAMS_FILE
from rpg.config.experiment import Experiment
from rpg.config.model import Condition
from rpg.utils.artifacts import Code, Files, Form, ListedFile, MayLack, all_have_codes
from rpg.utils.errors import UserError
from rpg.utils.files import check_unchanged, read_sealed, read_tensors, sha256

if TYPE_CHECKING:
    from rpg.tasks.stack import StateDict


class Checkpoint(ListedFile):
    """A trained source network."""

    seed: Annotated[int, Field(ge=0)]
    step: int
    held_out: bool
    code: MayLack[Code] = None

    def numbers(self, name: str) -> list[float] | None:
        """Return the number or the numbers under the key `name`, such as `validation_top1`; None without such a key."""
        value = self.tree().get(name)
        values = value if isinstance(value, list) else [value]
        numbers = [float(each) for each in values if isinstance(each, int | float)]
        return numbers if len(numbers) == len(values) else None

    def number_keys(self) -> list[str]:
        """Return the keys of numbers and lists, sorted."""
        return sorted(key for key, value in self.tree().items() if isinstance(value, int | float | list))


class Checkpoints(Form):
    """zoo/checkpoints.json."""

    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    tensors: list[str]
    # The tensors that are state of the network, not weights (`Task.buffers`).
    buffers: MayLack[list[str]] = None
    # Further names of one tensor → its first name (`Task.tied`).
    tied: MayLack[dict[str, str]] = None

    @model_validator(mode="after")
    def _check_codes(self) -> "Checkpoints":
        all_have_codes(self.checkpoints)
        return self


class Shard(Checkpoints):
    """zoo/<shard>/manifest.json."""

    recipe: dict[str, dict[str, Any]]
    base: str | None
    # What `Task.summary` says about checkpoints from elsewhere.
    summary: MayLack[dict[str, Any]] = None


class Trained(Form):
    """The networks of one seed that an unfinished shard has trained."""

    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    tensors: list[str]
    diverged: dict[str, int]


class Finished(Form):
    """zoo/<shard>/finished.json; `code` is the digest of the code that trained the networks."""

    finished: list[Trained]
    recipe: dict[str, dict[str, Any]]
    base: str | None
    code: str


def read_base(experiment: Experiment, folder: Path, seed: int) -> "StateDict | None":
    """Return the weights in `folder` that the runs of the zoo's `seed` start from; None for a random start.

    Raises UserError if the weights are missing or were changed.
    """
    if not experiment.base:
        return None
    # The manifest lists one network per seed of the base block, in the same order.
    entries = read_sealed(folder / "manifest.json", "rpg base", Files).files
    entry = entries[experiment.zoo.seeds.index(seed) % len(entries)]
    check_unchanged(folder, entry.file, entry.sha256, "trained", "`rpg base`")
    return read_tensors(folder / entry.file)


def fingerprint(experiment: Experiment, folder: Path) -> str | None:
    """Return the SHA-256 of the base networks' manifest in `folder`; None if the experiment has no base networks."""
    if not experiment.base:
        return None
    read_sealed(folder / "manifest.json", "rpg base", Files)
    return sha256(folder / "manifest.json")


def read_zoo(zoo: Path) -> tuple[list[Checkpoint], list[str]]:
    """Return the checkpoints that `collect_zoo` listed, by seed, code and step, and their tensors' names in order.

    Raises UserError if a checkpoint is missing or was changed after training.
    """
    collected = list_zoo(zoo)
    for checkpoint in collected.checkpoints:
        check_checkpoint(zoo, checkpoint)
    return collected.checkpoints, collected.tensors


def list_zoo(zoo: Path) -> Checkpoints:
    """Return the zoo's manifest without a check of the checkpoints' files."""
    return read_sealed(zoo / "checkpoints.json", "rpg collect", Checkpoints)


@contextlib.contextmanager
def checking_zoo(zoo: Path, checkpoints: list[Checkpoint]) -> Iterator[None]:
    """Check the checkpoints' files in another thread while the block runs, and wait for the checks at its end.

    Raises UserError if a file is missing or was changed after training, even if the block has raised another UserError,
    because a changed file explains other faults.
    """
    pool, fault = ThreadPoolExecutor(1), None
    try:
        checks = [pool.submit(check_checkpoint, zoo, checkpoint) for checkpoint in checkpoints]
        try:
            yield
        except UserError as error:
            fault = error
        for check in checks:
            check.result()
        if fault:
            raise fault
    finally:
        pool.shutdown(cancel_futures=True)


def check_vectors(conditions: Sequence[Condition], known: Collection[str], owner: str) -> None:
    """Raise UserError unless each vector among the conditions is one of the `known` numbers of checkpoints.

    `owner` names the checkpoints in the error.
    """
    for condition in conditions:
        if condition.kind == "vector" and condition.field not in known:
            raise unknown_vector(condition.field, known, owner)


def unknown_vector(name: str, known: Collection[str], owner: str) -> UserError:
    """Return the error about a vector that is none of the `known` numbers of `owner`."""
    listed = ", ".join(sorted(known))
    return UserError(f"{PARAMS_FILE}: model.conditions: {owner} has no number '{name}'; known: {listed}")


def check_checkpoint(zoo: Path, checkpoint: Checkpoint) -> None:
    """Raise UserError unless the file of `checkpoint` is unchanged since training."""
    shard = Path(checkpoint.file).parent
    check_unchanged(zoo, checkpoint.file, checkpoint.sha256, "trained", f"`rpg zoo --shard {shard}`")
