"""The model card's text for segmentation and detection networks."""

from pathlib import Path
from typing import TYPE_CHECKING

from rpg.tasks.config import CardText

if TYPE_CHECKING:
    from rpg.tasks.openmmlab.config import OpenMMLabTask

# The code runs in the folder of params.yaml, because it reads params.yaml.
USE = """from rpg.config.loading import load_params
from rpg.tasks.loading import load_task
from safetensors.torch import load_file

params = load_params()
network = load_task(params.experiment("{name}").task, params.data_root).network
network.load_state_dict(load_file("results/{name}/samples/0000.safetensors"))"""


def card(task: "OpenMMLabTask", name: str) -> CardText:
    """Return the model card's text for the networks of experiment `name`."""
    return CardText(
        network=Path(task.config).stem,
        library=task.library,
        use=USE.format(name=name),
        answer=f"Run the code in the folder of `params.yaml`; `{task.config}` describes `network`.",
    )
