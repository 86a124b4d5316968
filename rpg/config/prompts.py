"""The block `prompts`: how networks for prompts are measured."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rpg.blocks import Block, Count, Positive
from rpg.utils.errors import suggestion


class PromptEvaluation(Block):
    """Support sets of held-out tasks, and what RPG and its rivals make of the same images.

    For each held-out task, `prompts` support sets have each of the numbers of `images`, of no and of yes.
    """

    prompt: ClassVar = "images"

    seed: Annotated[int, Field(ge=0)]
    prompts: Annotated[int, Field(ge=1, description="support sets of each task")]
    images: Annotated[
        list[Count], Field(min_length=1, description="images of no, and as many of yes, in a support set")
    ]
    data: Annotated[
        list[Literal["mnist", "hidden"]],
        Field(description="other data to measure on: MNIST's digits, or the classes that task.hidden names"),
    ]
    steps: Annotated[list[Count], Field(description="steps of fine-tuning the base network on the support set")]
    epochs: Annotated[list[Count], Field(description="epochs of fine-tuning on the support set, after none")]
    batch: Annotated[int, Field(ge=1, description="images of a step of fine-tuning")]
    learning_rate: Annotated[Positive, Field(description="learning rate of all fine-tuning")]
    refinement: Annotated[int, Field(ge=1, description="steps of refinement through the generator")]
    refinement_rate: Annotated[Positive, Field(description="learning rate of the refinement")]

    def check_tasks(self, seen: Sequence[str], held_out: Sequence[str]) -> None:
        """Do nothing: support sets can be drawn for any tasks."""


class TextPromptEvaluation(Block):
    """Questions of held-out tasks, and what RPG and its rivals make of the same questions.

    For each held-out task, `prompts` draws have each of the numbers of `questions`.
    """

    prompt: ClassVar = "text"

    seed: Annotated[int, Field(ge=0)]
    prompts: Annotated[int, Field(ge=1, description="draws of questions of each task")]
    questions: Annotated[list[Count], Field(min_length=1, description="questions without answers in a prompt")]
    new: Annotated[
        list[str],
        Field(description="held-out tasks about something that no seen task asks about; a column of their own"),
    ]
    examples: Annotated[
        list[Count], Field(description="questions with answers before each question, for the language model alone")
    ]
    nearest: Annotated[int, Field(ge=2, description="adapters of the nearest seen tasks in a soup, their mean")]

    @model_validator(mode="after")
    def _examples_are_prompts(self) -> "TextPromptEvaluation":
        if other := next((count for count in self.examples if count not in self.questions), None):
            raise ValueError(f"examples: {other} is not in questions; the examples are a prompt's questions")
        return self

    def check_tasks(self, seen: Sequence[str], held_out: Sequence[str]) -> None:
        """Raise ValueError for new tasks that are not held out, and for a soup of more tasks than are seen."""
        if other := next((task for task in self.new if task not in held_out), None):
            raise ValueError(f"prompts.new: '{other}' is no held-out task{suggestion(other, held_out)}")
        if self.nearest > len(seen):
            raise ValueError(f"prompts.nearest: {self.nearest} of {len(seen)} seen tasks; set fewer")


def _kind(tree: Any) -> str:
    """Return the tag of the block for a kind of prompt: only one of the blocks counts questions."""
    if isinstance(tree, Block):
        return f"of {getattr(tree, 'prompt', 'images')}"
    return "of text" if isinstance(tree, dict) and "questions" in tree else "of images"


# A tag that is no key: the message about a fault leaves it out.
AnyPromptEvaluation = Annotated[
    Annotated[PromptEvaluation, Tag("of images")] | Annotated[TextPromptEvaluation, Tag("of text")],
    Discriminator(_kind),
]
