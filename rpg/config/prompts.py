"""The block `prompts`: how networks for prompts are measured."""

from typing import Annotated, Literal

from pydantic import Field

from rpg.blocks import Block, Count, Positive


class PromptEvaluation(Block):
    """Support sets of held-out tasks, and what RPG and its rivals make of the same images.

    For each held-out task, `prompts` support sets have each of the numbers of `images`, of no and of yes.
    """

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
