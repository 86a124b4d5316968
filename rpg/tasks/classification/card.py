"""The model card's text for classifiers that this project trains."""

from typing import TYPE_CHECKING, Any

from rpg.tasks.config import CardText

if TYPE_CHECKING:
    from rpg.tasks.classification.config import ClassificationTask, TaskCodes

TIMM = """import timm{registered}
from safetensors.torch import load_file

network = timm.create_model({call})
network.load_state_dict(load_file("samples/0000.safetensors"))"""


def timm_call(network: str, arguments: dict[str, Any]) -> str:
    """Return the arguments of `timm.create_model` as Python source."""
    return ", ".join([repr(network), *(f"{key}={value!r}" for key, value in arguments.items())])


def card(task: "ClassificationTask | TaskCodes") -> CardText:
    """Return the model card's text for the networks of `task`."""
    network = task.network.name
    outputs = {"num_classes": 2} if task.has_codes else {}
    # This module registers these networks with timm.
    registered = "\nimport rpg.tasks.classification.networks" if network in ("cnn_small", "cnn_medium") else ""
    answer = (
        "answer 1 says that the image's class is one of those whose bit in the task code is 1."
        if task.has_codes
        else "the answer is the class."
    )
    return CardText(
        network=network,
        library="timm",
        use=TIMM.format(registered=registered, call=timm_call(network, {**task.network.arguments, **outputs})),
        answer=f"Images are resized to {task.resolution} × {task.resolution} pixels; {answer}",
    )
