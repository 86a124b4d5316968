"""The block `prompts`: how networks for prompts are measured."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from rpg.blocks import Block, Count, Positive


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
