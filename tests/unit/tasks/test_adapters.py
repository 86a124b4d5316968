"""An adapter inside the weights that it changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ADAPTERS, adapters_task, sampled_adapter
from peft import LoraConfig

from rpg.tasks.adapters import CONFIG, merged, read_adapter_config
from rpg.utils.errors import UserError


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_the_model_says_the_same_and_is_as_before_afterwards(adapters: Path, monkeypatch, kind: str) -> None:
    monkeypatch.chdir(adapters)
    of = adapters_task(adapter={**ADAPTERS["task"]["adapter"], "kind": kind})
    state_dict = {
        name: tensor
        for name, tensor in sampled_adapter(adapters / "results/adapters").items()
        if kind == "dora" or "magnitude" not in name
    }
    of._put(state_dict)
    model: Any = of.network
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([of.tokenizer("a b c")["input_ids"]])
    with torch.inference_mode():
        apart = model(input_ids=ids).logits
        with merged(model):
            assert layer.merged
            changed = (
                layer.get_base_layer().weight
                - before["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
            )
            assert changed.abs().max() > 1e-3
            torch.testing.assert_close(model(input_ids=ids).logits, apart, atol=1e-4, rtol=1e-4)
        assert not layer.merged
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_in_half_precision_nothing_is_merged(adapters: Path, monkeypatch) -> None:
    monkeypatch.chdir(adapters)
    of = adapters_task()
    model: Any = of.network.to(torch.bfloat16)
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    with torch.inference_mode(), merged(model):
        assert not layer.merged


def test_the_settings_in_a_file(tmp_path: Path) -> None:
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["a"], use_dora=True)
    config.save_pretrained(tmp_path)
    assert read_adapter_config(tmp_path / CONFIG).to_dict() == LoraConfig.from_pretrained(tmp_path).to_dict()
    for content, why in (('{"r": 3}', "peft_type"), ('{"peft_type": "NEW"}', "NEW"), ("[]", "")):
        (tmp_path / CONFIG).write_text(content)
        with pytest.raises(UserError, match=rf"{CONFIG}: .*{why}"):
            read_adapter_config(tmp_path / CONFIG)
