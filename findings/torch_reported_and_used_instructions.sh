#!/usr/bin/env bash
# torch 2.11.0 names a processor's instruction sets in two ways, which may disagree.
#
# `ATEN_CPU_CAPABILITY=default` has ATen run its plainest kernels, and `torch.backends.cpu.get_cpu_capability()` says so.
# `torch.cpu.get_capabilities()` goes on to list what the processor has. A program that reads the second to decide how
# it computes, or to label its numbers, is wrong under the variable that exists to make one machine round like another.
#
# Seen on x86-64, AMD EPYC (Zen 4):
#   variable unset:   used AVX512, listed avx2 True
#   variable default: used DEFAULT, listed avx2 True
#
# Needs a processor with AVX2. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6

cat >"$folder/ask.py" <<'PYTHON'
import torch

used, listed = torch.backends.cpu.get_cpu_capability(), torch.cpu.get_capabilities()["avx2"]
print(f"used {used}, listed avx2 {listed}")
PYTHON

plain=$("$folder/venv/bin/python" "$folder/ask.py")
restricted=$(ATEN_CPU_CAPABILITY=default "$folder/venv/bin/python" "$folder/ask.py")
printf 'torch 2.11.0\nvariable unset:   %s\nvariable default: %s\n' "$plain" "$restricted"
[[ $plain =~ ^"used AVX"(2|512)", listed avx2 True"$ ]]
[ "$restricted" = "used DEFAULT, listed avx2 True" ]
