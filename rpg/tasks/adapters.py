"""Read and write peft adapters, in a network and in the folder that peft opens.

An adapter's state dict is the content of adapter_model.safetensors, under peft's names.
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
    """Return copies of the weights of a PeftModel's adapter, on the CPU."""
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def put_adapter(model: Any, state_dict: StateDict) -> None:
    """Load matching weights into a PeftModel's adapter."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, state_dict)


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Merge a PeftModel's adapter into the base weights during the block, which halves the time of a pass.

    Afterwards the base weights are bit-identical to before; peft's own unmerge leaves a rounding error. Weights with
    less than float32 precision stay unmerged, because the sum would round the adapter away.
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
    """Write a folder for `PeftModel.from_pretrained`; return the path of its weights. `config` is peft's own config."""
    tree = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_json(stem / CONFIG, tree)
    write_tensors(stem / WEIGHTS, state_dict)
    return stem / WEIGHTS
