"""The typed contents of samples/manifest.json."""

from typing import Annotated

from pydantic import Field, model_validator

from rpg.utils.artifacts import Code, Form, ListedFile, MayLack, Set, all_have_codes


class Sampled(ListedFile):
    """One sampled network: its file, model, set of tasks, permutation state and task code."""

    model: str
    set: Set
    state: Annotated[int, Field(ge=0)]
    code: MayLack[Code] = None
    between: list[int] = Field(default_factory=list)


class Samples(Form):
    """The whole of samples/manifest.json."""

    samples: Annotated[list[Sampled], Field(min_length=1)]

    @model_validator(mode="after")
    def _of_rpg(self) -> "Samples":
        if not any(sample.model == "rpg" for sample in self.samples):
            raise ValueError("samples: none of model 'rpg'")
        all_have_codes(self.samples)
        return self
