"""What the blocks of params.yaml are made of: their base class, and types that several of them share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PARAMS_FILE = Path("params.yaml")


class Block(BaseModel):
    """A block of params.yaml: immutable, without unknown keys, without conversions between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _differ(seeds: list[int]) -> list[int]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("a seed stands there twice")
    return seeds


Count = Annotated[int, Field(ge=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_differ)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Betas = Annotated[
    list[Share],
    Field(min_length=2, max_length=2, description="β₁ and β₂ of Adam; few steps need shorter memories than usual"),
]
Revision = Annotated[
    str, Field(pattern="^[0-9a-f]{40}$", description="commit of the repository on the Hugging Face hub")
]
Precision = Annotated[
    Literal["bfloat16", "float32"],
    Field(description="precision of matrix products under torch's autocast, where the processor has units for it"),
]
