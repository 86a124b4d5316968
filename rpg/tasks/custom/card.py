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
USE_WEIGHTS = """from safetensors.torch import load_file

state_dict = load_file("results/{name}/samples/0000.safetensors")"""
USE_ADAPTER_ALONE = """from peft import PeftModel
from transformers import AutoModel

base_model = AutoModel.from_pretrained("{base}")
network = PeftModel.from_pretrained(base_model, "results/{name}/samples/0000")"""
ANSWER = "Run the code in the folder of `params.yaml`; `{score}` shows the inputs and outputs."
NO_SCORE = "No function scores the networks: their scores are distances from the zoo."


def card(task: "CustomTask", name: str, adapters: bool) -> CardText:
    """Return the model card's text for the networks or adapters of experiment `name`."""
    module, _, function = (task.build or "").partition(":")
    built, alone = (USE_ADAPTER, USE_ADAPTER_ALONE) if adapters else (USE, USE_WEIGHTS)
    use = built if task.build else alone
    return CardText(
        network=f"`{task.build}`" if task.build else "the tensors of the checkpoints",
        library="peft" if adapters else "pytorch",
        use=use.format(module=module, function=function, name=name, base="BASE"),
        answer=ANSWER.format(score=task.score) if task.score else NO_SCORE,
        split=f"as `{task.score}` defines it" if task.score else "which a distance does not need",
    )
