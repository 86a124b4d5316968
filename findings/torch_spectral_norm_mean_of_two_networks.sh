#!/usr/bin/env bash
# torch 2.11.0: the mean of two spectrally normalized layers is not spectrally normalized in evaluation mode.
#
# `parametrizations.spectral_norm` keeps the two vectors of its power iteration as buffers `_u` and `_v`, in the state
# dict beside the weights. Evaluation mode takes no step of the iteration, so a state dict whose weights were averaged,
# interpolated or generated divides by a norm that belongs to no matrix. Weight averaging and weight generators that
# treat all floating-point tensors alike break the bound that the parametrization promises, without a word.
#
# Seen: spectral norm of a trained layer 1.00, of the mean in evaluation mode 1.87, after 200 steps in training mode 1.00
#
# Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6

cat >"$folder/mean.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def layer(state_dict=None, steps=0):
    made = spectral_norm(nn.Linear(20, 20))
    if state_dict:
        made.load_state_dict(state_dict)
    for _ in range(steps):
        made(torch.zeros(1, 20))
    return made.eval()


def norm(made):
    return torch.linalg.matrix_norm(made.weight, 2).item()


torch.manual_seed(0)
one, other = layer(steps=100), layer(steps=100)
mean = {name: (tensor + other.state_dict()[name]) / 2 for name, tensor in one.state_dict().items()}
print(f"a layer {norm(one):.2f}, the mean {norm(layer(mean)):.2f}, after 200 steps {norm(layer(mean, 200)):.2f}")
PYTHON

seen=$("$folder/venv/bin/python" "$folder/mean.py")
printf 'torch 2.11.0\n%s\n' "$seen"
[[ $seen =~ ^"a layer 1.00, the mean "1\.[5-9][0-9]", after 200 steps 1.00"$ ]]
