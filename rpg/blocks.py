"""The base class of all blocks of params.yaml, and the types that several blocks share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PARAMS_FILE = Path("params.yaml")


class Block(BaseModel):
    """A block of params.yaml: immutable, without unknown keys, without type conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def absent(value: object) -> bool:
    """Return whether an optional key is left out: artifacts then are those of versions that lacked the key."""
    return value is None


def _check_distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed is listed twice; remove one")
    return seeds


Count = Annotated[int, Field(ge=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_check_distinct)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Betas = Annotated[
    list[Share],
    Field(
        min_length=2,
        max_length=2,
        description="β₁ and β₂ of Adam; a short training needs smaller values than a long one",
    ),
]
Revision = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{40}$", description="commit of the repository on the Hugging Face hub, 40 hexadecimal digits"
    ),
]
Precision = Annotated[
    Literal["bfloat16", "float32"],
    Field(
        description="precision of matrix products in torch's autocast; bfloat16 needs a processor with bfloat16 units"
    ),
]
