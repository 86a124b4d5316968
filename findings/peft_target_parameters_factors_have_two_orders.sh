#!/usr/bin/env bash
# peft 0.21.2: the factors of a LoRA on a three-dimensional parameter list experts and ranks in opposite orders.
#
# `target_parameters` adapts a parameter [experts, ...], as mixtures of experts have it. The file holds one A with
# experts * r rows and one B with experts * r columns, under the names and with the shapes of a plain pair. A lists its
# rows expert by expert, B its columns rank by rank. So B @ A has the right shape to be a change of weights, and is no
# expert's. Code that merges, decomposes or averages adapters by the names of their tensors computes another adapter.
#
# Seen: A (6, 5), B (4, 6); change of the weights = B rank by rank times A expert by expert: True; both alike: False
#
# Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0

cat >"$folder/factors.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

EXPERTS, RANK = 3, 2


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, 4, 5))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = Experts()


torch.manual_seed(0)
network = Network()
before = network.experts.weight.detach().clone()
adapted = get_peft_model(network, LoraConfig(r=RANK, lora_alpha=RANK, target_parameters=["experts.weight"]))
with torch.no_grad():
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.normal_()
a, b = (get_peft_model_state_dict(adapted)[f"base_model.model.experts.lora_{letter}.weight"] for letter in "AB")
adapted.merge_adapter()
change = next(p for p in adapted.parameters() if p.shape == before.shape).detach() - before
a_by_expert = a.view(EXPERTS, RANK, -1)
b_by_rank = b.view(len(b), RANK, EXPERTS).permute(2, 0, 1)
b_by_expert = b.view(len(b), EXPERTS, RANK).permute(1, 0, 2)


def same(of_b):
    return torch.allclose(of_b @ a_by_expert, change, atol=1e-5)


print(f"A {tuple(a.shape)}, B {tuple(b.shape)}; B rank by rank: {same(b_by_rank)}; both alike: {same(b_by_expert)}")
PYTHON

seen=$("$folder/venv/bin/python" "$folder/factors.py" 2>"$folder/warnings" || { cat "$folder/warnings" >&2; exit 1; })
printf 'peft 0.21.2, torch 2.11.0\n%s\n' "$seen"
[ "$seen" = "A (6, 5), B (4, 6); B rank by rank: True; both alike: False" ]
