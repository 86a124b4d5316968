"""Read and write peft adapters, in a network and in the folder that peft opens.

An adapter's state dict is the content of adapter_model.safetensors, under peft's names.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rpg.tasks.stack import StateDict
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, write_json, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Keys of peft's configurations that do not enter the function of an adapter's weights: where the adapter comes from,
# its training, and its modules, which the names of the weights show. peft 0.21.2.
FREE = frozenset(
    [
        "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config",
        "task_type", "bias", "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save",
        "target_modules", "lora_dropout", "module_dropout", "rank_dropout", "rank_dropout_scale", "corda_config",
        "ensure_weight_tying", "eva_config", "loftq_config", "lora_ga_config", "megatron_config", "megatron_core",
        "velora_config", "beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit",
        "total_step",
    ]
)  # fmt: skip
INITIAL = frozenset({"init_lora_weights", "init_weights"})
# Initial weights that leave the base model as it is. All others, such as PiSSA's and OLoRA's, take their share out of
# the base model's weights.
BESIDE_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")
# Initial weights of a fast singular value decomposition, which starts from random numbers. peft 0.21.2.
RANDOM_SHARE = "pissa_niter_"


def adapter_state(model: Any) -> StateDict:
    """Return copies of the weights of a PeftModel's adapter, on the CPU."""
    from peft import get_peft_model_state_dict

    state_dict = get_peft_model_state_dict(model, adapter_name=model.active_adapter)
    return {name: tensor.detach().cpu().clone() for name, tensor in state_dict.items()}


def read_adapter_config(path: Path) -> Any:
    """Return the PeftConfig in the file `path`, an adapter_config.json; UserError if peft can't read it."""
    from peft import PeftConfig

    tree = read_json(path, "PeftModel.save_pretrained")
    try:
        return PeftConfig.from_peft_type(**tree)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: peft can't read it ({error}); write it by PeftModel.save_pretrained") from error


def settings(own: Any) -> dict[str, Any]:
    """Return the settings of peft's config `own` that enter the function of the adapter's weights and are in use."""
    tree = json.loads(json.dumps(own.to_dict(), default=_plain))
    return {key: value for key, value in sorted(tree.items()) if key not in FREE and value not in (None, False, {}, [])}


def difference(config: Mapping[str, Any], own: Any, builder: str) -> str | None:
    """Return why an adapter is another function in the network of `builder`, and the remedy; None if it is the same.

    `config` is the content of adapter_config.json, `own` the network's PeftConfig. A setting that the file lacks is of
    a later version of peft.
    """
    mine = json.loads(json.dumps(own.to_dict(), default=_plain))
    for key, value in config.items():
        if key in FREE or key not in mine:
            continue
        expected = mine[key]
        if key in INITIAL and str(value).startswith(RANDOM_SHARE):
            why = "takes a share out of the base model that depends on random numbers, so the adapter does not reload"
            remedy = "convert it to LoRA by `path_initial_model_for_weight_conversion` of save_pretrained"
            return f"{key} is {value}: it {why}; {remedy}"
        if key in INITIAL:
            value, expected = ("beside the base" if of in BESIDE_THE_BASE else of for of in (value, expected))
        # peft treats an empty pattern as none.
        if (_unordered(value) or None) != (_unordered(expected) or None):
            return f"{key} is {config[key]}, but {builder} has {mine[key]}; make them equal"
    return None


def _unordered(value: Any) -> Any:
    """Return `value` with its lists of names in order: peft writes a set in an order that differs between processes."""
    if isinstance(value, Mapping):
        return {key: _unordered(of) for key, of in value.items()}
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return sorted(value) if names else value


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else getattr(value, "value", str(value))


def is_adapted(network: nn.Module) -> bool:
    """Return whether a network is a PeftModel."""
    # A PeftModel exists only if peft is imported.
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(network, peft.PeftModel)


def put_adapter(model: Any, state_dict: StateDict) -> None:
    """Load matching weights into a PeftModel's adapter."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, state_dict, adapter_name=model.active_adapter)


def loaded(network: nn.Module, state_dict: StateDict) -> nn.Module:
    """Return the network in evaluation mode, with these weights; those of a PeftModel are its adapter's."""
    if is_adapted(network):
        put_adapter(network, state_dict)
    else:
        network.load_state_dict(state_dict)
    return network.eval()


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


def config_tree(own: Any) -> dict[str, Any]:
    """Return peft's config `own` as the content of adapter_config.json."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in own.to_dict().items()}


def write_adapter(stem: Path, config: Mapping[str, Any], state_dict: StateDict) -> Path:
    """Write a folder for `PeftModel.from_pretrained`; return the path of its weights.

    `config` is the content of adapter_config.json.
    """
    write_json(stem / CONFIG, dict(config))
    write_tensors(stem / WEIGHTS, state_dict)
    return stem / WEIGHTS
