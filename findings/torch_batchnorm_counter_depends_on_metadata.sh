#!/usr/bin/env bash
# torch 2.11.0: whether BatchNorm loads a state dict without `num_batches_tracked` depends on a hidden attribute.
#
# `state_dict()` has an attribute `_metadata` with the version of each module. With it, a state dict that lacks the
# counter is refused. The same tensors in a plain dict, or read back from safetensors, have no version and load: torch
# takes them for a file from before 0.4.1 and supplies the counter. So a tool that filters a state dict in place makes
# files that torch refuses, and one that builds a new dict makes files that torch loads.
#
# Seen:
#   in place:    refused
#   plain dict:  loads
#   torch.save:  refused
#   safetensors: loads
#
# Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6 safetensors==0.8.0

cat >"$folder/load.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def outcome(state_dict):
    try:
        nn.BatchNorm1d(3).load_state_dict(state_dict)
    except RuntimeError as error:
        assert "num_batches_tracked" in str(error)
        return "refused"
    return "loads"


folder = Path(sys.argv[1])
lacking = nn.BatchNorm1d(3).state_dict()
del lacking["num_batches_tracked"]
torch.save(lacking, folder / "lacking.pth")
save_file(lacking, folder / "lacking.safetensors")
print("in place:   ", outcome(lacking))
print("plain dict: ", outcome(dict(lacking)))
print("torch.save: ", outcome(torch.load(folder / "lacking.pth", weights_only=True)))
print("safetensors:", outcome(load_file(folder / "lacking.safetensors")))
PYTHON

printf 'torch 2.11.0\n'
"$folder/venv/bin/python" "$folder/load.py" "$folder" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
in place:    refused
plain dict:  loads
torch.save:  refused
safetensors: loads
SEEN
