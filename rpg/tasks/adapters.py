"""Adapters of peft's: the weights of one, in a network and in the folder that peft opens.

An adapter's state dict is what adapter_model.safetensors holds, in peft's names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rpg.tasks.stack import StateDict
from rpg.utils.files import write_json, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_state(model: Any) -> StateDict:
    """The weights of a PeftModel's adapter, on the CPU, as copies of their own."""
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def put_adapter(model: Any, state_dict: StateDict) -> None:
    """Give a PeftModel's adapter these weights, which must fit."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, state_dict)


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """A PeftModel with the adapter added to the weights that it changes, which saves half of the time of a pass.

    Afterwards they are as before, to the bit: what peft takes away again leaves a rounding error. Weights of less than
    float32 stay as they are, since the sum would round the adapter away.
    """
    from peft.helpers import DoraCaching
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    if any(weight.dtype != torch.float32 for weight in weights):
        with DoraCaching():
            yield
        return
    kept = [weight.detach().clone() for weight in weights]
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()
        for weight, before in zip(weights, kept, strict=True):
            weight.data.copy_(before)


def write_adapter(stem: Path, config: Any, state_dict: StateDict) -> Path:
    """Write a folder that `PeftModel.from_pretrained` opens; the file that has its weights. `config`: peft's own."""
    tree = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_json(stem / CONFIG, tree)
    write_tensors(stem / WEIGHTS, state_dict)
    return stem / WEIGHTS
