"""The model card's text for fine-tuned classifiers."""

from typing import TYPE_CHECKING

from rpg.tasks.classification.card import TIMM, timm_call
from rpg.tasks.config import CardText

if TYPE_CHECKING:
    from rpg.tasks.fine_tuning.config import FineTuningTask


def card(task: "FineTuningTask") -> CardText:
    """Return the model card's text for the networks of `task`."""
    return CardText(
        network=task.network.name,
        library="timm",
        use=TIMM.format(registered="", call=timm_call(task.network.name, task.network.arguments)),
        answer=(
            f"Images go through `timm.data.create_transform` with `resolve_data_config({task.resolution},"
            " model=network, use_test_size=True)`; the answer is the class."
        ),
    )
