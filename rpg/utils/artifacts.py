"""What the JSON files that stages leave for each other must hold; further keys are free.

`rpg.utils.files.read_json` and `read_sealed` check them: a reader of such a file finds each key here, with its type.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rpg.utils import task_codes

# A task code, as rpg.utils.task_codes has it.
Code = Annotated[str, Field(pattern=f"^[01]{{{task_codes.CLASSES}}}$")]


# The default of a key that may be left out, and may not be null.
LEFT_OUT: Any = None


# The names of the sets of networks (`rpg.evaluation.score.SETS`).
Set = Literal["seen", "held_out_pairs", "held_out", "all", "between"]


class Form(BaseModel):
    """What a file, or a part of it, must hold."""

    model_config = ConfigDict(strict=True)


class ListedFile(Form):
    """A file that the one which names it vouches for: its path there, and its SHA-256."""

    file: Annotated[str, Field(pattern=r"^[^\x00/][^\x00]*$")]
    sha256: str

    @field_validator("file")
    @classmethod
    def _below(cls, file: str) -> str:
        if ".." in file.split("/"):
            raise ValueError("leads out of the folder")
        return file


class Files(Form):
    """base/manifest.json, and what else vouches for some files."""

    files: Annotated[list[ListedFile], Field(min_length=1)]


class Seconds(Form):
    """seconds/<stage>.json."""

    seconds: float


class Answers(Form):
    """What a network has answered, kept while it is at work."""

    answers: list[int]


class _Coded(Protocol):
    """A network that may have a task code."""

    @property
    def code(self) -> Any: ...


def all_have_codes(networks: Sequence[_Coded]) -> None:
    """ValueError unless all networks have a task code, or none."""
    if len({network.code is None for network in networks}) > 1:
        raise ValueError("some networks have a task code and some have none")
