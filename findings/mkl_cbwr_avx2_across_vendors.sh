#!/usr/bin/env bash
# torch 2.11.0 with MKL: under MKL_CBWR=AVX2 a float32 matrix product has other bytes on an AMD processor than on an
# Intel one, though both have AVX2 and FMA. Under MKL_CBWR=COMPATIBLE the bytes are the same.
#
# MKL's conditional numerical reproducibility (CBWR) names an instruction set on which all processors shall agree. A
# project that pins AVX2 to get the same checkpoints everywhere gets two kinds. COMPATIBLE keeps the promise; a product
# of 576 × 512 and 512 × 512 matrices takes 2.1 times as long with it (AMD EPYC, Zen 4).
#
# Both processors are emulated by Debian's qemu-user, so the machine's own processor does not matter.
#
# Seen (qemu 7.2):
#   MKL_CBWR=AVX2:       differs
#   MKL_CBWR=COMPATIBLE: same
#
# Needs a Debian machine on x86-64. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.11.0 numpy==2.4.6
apt-get download -qq qemu-user 2>/dev/null
dpkg -x qemu-user_*.deb qemu

cat >product.py <<'PYTHON'
import hashlib

import torch

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
product = torch.randn(576, 512, generator=draw) @ torch.randn(512, 512, generator=draw)
print(hashlib.sha256(product.numpy().tobytes()).hexdigest())
PYTHON

python=$(readlink -f venv/bin/python)
packages=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
digest() { # PROCESSOR CBWR
	PYTHONPATH=$packages ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=$2 qemu/usr/bin/qemu-x86_64 -cpu "$1" "$python" product.py 2>/dev/null
}
compare() { # CBWR
	if [ "$(digest Haswell "$1")" = "$(digest EPYC-Rome "$1")" ]; then echo same; else echo differs; fi
}
avx2=$(compare AVX2)
compatible=$(compare COMPATIBLE)
printf 'torch 2.11.0\nMKL_CBWR=AVX2:       %s\nMKL_CBWR=COMPATIBLE: %s\n' "$avx2" "$compatible"
[ "$avx2" = differs ]
[ "$compatible" = same ]
