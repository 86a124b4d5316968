#!/usr/bin/env bash
# torch 2.11.0: one more number changes the 15 before it, because `torch.randn` draws its last block of 16 again.
#
# On a CPU, randn fills blocks of 16. If the count is no multiple of 16, it draws the last 16 numbers a second time, so
# 15 numbers that stood there already are replaced. Up to 15 numbers are drawn one by one in another way. So noise for a
# sequence of tokens is no prefix of the noise for a longer one, and two calls of 16 equal one of 32, but two calls of 17
# do not equal one of 34. A sampler that makes its noise in parts must keep the parts' sizes to give the same networks.
#
# Seen:
#   32 numbers, the first 16 of them: 16 of 16 equal randn(16)
#   17 numbers, the first 16 of them: 1 of 16 equal randn(16)
#   31 numbers, the first 16 of them: 15 of 16 equal randn(16)
#   16 numbers, the first 15 of them: 0 of 15 equal randn(15)
#   two calls of 16 are one of 32: True
#   two calls of 17 are one of 34: False
#
# Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6

cat >"$folder/draw.py" <<'PYTHON'
import torch


def draw(*counts):
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.randn(count, generator=generator) for count in counts])


for count, first in ((32, 16), (17, 16), (31, 16), (16, 15)):
    equal = int((draw(count)[:first] == draw(first)).sum())
    print(f"{count} numbers, the first {first} of them: {equal} of {first} equal randn({first})")
for count in (16, 17):
    print(f"two calls of {count} are one of {2 * count}: {torch.equal(draw(count, count), draw(2 * count))}")
PYTHON

printf 'torch 2.11.0\n'
"$folder/venv/bin/python" "$folder/draw.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
32 numbers, the first 16 of them: 16 of 16 equal randn(16)
17 numbers, the first 16 of them: 1 of 16 equal randn(16)
31 numbers, the first 16 of them: 15 of 16 equal randn(16)
16 numbers, the first 15 of them: 0 of 15 equal randn(15)
two calls of 16 are one of 32: True
two calls of 17 are one of 34: False
SEEN
