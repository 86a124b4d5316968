"""The model card's text for the user's own networks."""

from typing import TYPE_CHECKING

from rpg.tasks.config import CardText

if TYPE_CHECKING:
    from rpg.tasks.custom.config import CustomTask

# The code runs in the folder of params.yaml, where Python finds the network's module.
USE = """from {module} import {function}
from safetensors.torch import load_file

network = {function}()
network.load_state_dict(load_file("results/{name}/samples/0000.safetensors"))"""
USE_ADAPTER = """from {module} import {function}
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

network = {function}()
set_peft_model_state_dict(network, load_file("results/{name}/samples/0000/adapter_model.safetensors"))"""


def card(task: "CustomTask", name: str, adapters: bool) -> CardText:
    """Return the model card's text for the networks or adapters of experiment `name`."""
    module, _, function = task.build.partition(":")
    return CardText(
        network=f"`{task.build}`",
        library="peft" if adapters else "pytorch",
        use=(USE_ADAPTER if adapters else USE).format(module=module, function=function, name=name),
        answer=f"Run the code in the folder of `params.yaml`; `{task.score}` shows the inputs and outputs.",
        split=f"as `{task.score}` defines it",
    )
