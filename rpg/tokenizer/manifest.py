"""The types of tokens/layout.json."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rpg.utils.artifacts import Form, ListedFile, MayLack, all_have_codes
from rpg.zoo.manifest import Checkpoint


class TensorForm(Form):
    """The place of a tensor among the tokens."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    dtype: Literal[
        "float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64"
    ]  # fmt: skip
    first: int
    tokens: Annotated[int, Field(ge=0)]
    # The earlier tensor of the same shape that this one is a copy of.
    tied_to: MayLack[str] = None
    # Each of these equal parts of the weights begins with a new token.
    parts: Annotated[int, Field(ge=1)] = 1


class LayoutForm(Form):
    """Tensors and tokens of one architecture."""

    width: Annotated[int, Field(ge=1)]
    tensors: list[TensorForm]
    canonical: bool = False

    @model_validator(mode="after")
    def _check_rows(self) -> "LayoutForm":
        first, shapes = 0, dict[str, tuple[str, list[int]]]()
        for tensor in self.tensors:
            kind = (tensor.dtype, tensor.shape)
            if tensor.tied_to is not None and (tensor.tokens or shapes.get(tensor.tied_to) != kind):
                raise ValueError(f"tensors: '{tensor.name}' is tied to no earlier tensor of its shape")
            shapes[tensor.name] = kind
            weights = 1
            for length in tensor.shape:
                weights *= length
            parts = tensor.parts
            cut = weights % parts == 0 and tensor.tokens == parts * -(-weights // parts // self.width)
            if tensor.first != first or (tensor.tokens and (weights < 2 or not cut)):
                raise ValueError(f"tensors: '{tensor.name}' does not follow the one before it")
            first += tensor.tokens
        if not first:
            raise ValueError("tensors: no tensor has a token")
        return self


class TokenLayout(Form):
    """tokens/layout.json."""

    layout: LayoutForm
    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    held_out: list[Checkpoint]
    seeds: list[int]
    files: list[ListedFile]

    @model_validator(mode="after")
    def _check_states(self) -> "TokenLayout":
        if self.seeds != sorted({checkpoint.seed for checkpoint in self.checkpoints}):
            raise ValueError("seeds: differ from the checkpoints' seeds")
        # A run without a task code is held out as a whole.
        if any(checkpoint.code and checkpoint.seed not in self.seeds for checkpoint in self.held_out):
            raise ValueError("held_out: a checkpoint's seed is not in seeds")
        all_have_codes([*self.checkpoints, *self.held_out])
        return self
