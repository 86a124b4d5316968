#!/usr/bin/env bash
# transformers 5.23.0 with peft 0.21.2: `load_adapter` drops the magnitudes of a DoRA adapter, and raises nothing.
#
# peft writes a DoRA magnitude as `lora_magnitude_vector`, its module names it `lora_magnitude_vector.default.weight`.
# peft's own loading knows both. transformers' `load_adapter` looks for the longer name, takes the tensors for unexpected
# ones, and keeps the magnitudes of a new adapter: a report is printed, the call returns, and the network answers as
# another adapter would. A LoRA adapter without magnitudes loads right. `set_peft_model_state_dict` on the same file mends
# it.
#
# Seen (largest difference of the logits from those of the saved model; small is under 1e-4, large over 1e-3):
#   load_adapter, LoRA: small
#   PeftModel.from_pretrained: small
#   load_adapter, DoRA: large
#   set_peft_model_state_dict afterwards: small
#
# Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0

cat >"$folder/load.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
words = torch.tensor([[1, 2, 3, 4]])
config = LlamaConfig(
    vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained(folder / "base")


def base():
    return LlamaForCausalLM.from_pretrained(folder / "base")


def logits(model):
    with torch.no_grad():
        return model.eval()(words).logits


def told(what, model, expected):
    difference = (logits(model) - expected).abs().max().item()
    print(f"{what}: {'large' if difference > 1e-3 else 'small' if difference < 1e-4 else difference}")


for name, dora in (("LoRA", False), ("DoRA", True)):
    model = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=dora))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_().abs_()
    expected = logits(model)
    model.save_pretrained(folder / name)
    if dora:
        told("PeftModel.from_pretrained", PeftModel.from_pretrained(base(), folder / name), expected)
    loaded = base()
    loaded.load_adapter(str(folder / name))
    told(f"load_adapter, {name}", loaded, expected)
    if dora:
        set_peft_model_state_dict(loaded, load_file(folder / name / "adapter_model.safetensors"), adapter_name="default")
        told("set_peft_model_state_dict afterwards", loaded, expected)
PYTHON

printf 'transformers 5.23.0, peft 0.21.2\n'
"$folder/venv/bin/python" "$folder/load.py" "$folder" 2>"$folder/report" | grep -E ': (small|large|[0-9.e-]+)$' | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
load_adapter, LoRA: small
PeftModel.from_pretrained: small
load_adapter, DoRA: large
set_peft_model_state_dict afterwards: small
SEEN
