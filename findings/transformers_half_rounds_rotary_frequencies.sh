#!/usr/bin/env bash
# transformers 5.23.0: `model.half()` and `from_pretrained(dtype=float16)` give two networks from the same weights.
#
# The rotary frequencies of a Llama are a buffer that no file holds. `from_pretrained` computes them in float32 whatever
# the dtype of the weights is. torch's `half()`, `bfloat16()` and `to(dtype)` round this buffer, too, and nothing computes
# it again. So a network that is built, filled by `load_state_dict` and then cast, as code for generated weights does it,
# answers differently from the same state dict opened by `from_pretrained`: the state dicts are equal bit by bit, and the
# difference grows with the position, because the angle is position times frequency.
#
# Seen:
#   state dicts: equal
#   inv_freq: torch.float16 by half(), torch.float32 by from_pretrained
#   largest error of an angle at position 4000: over 0.1 radians
#   logits: different
#   logits with the frequencies computed again: equal
#
# Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6 transformers==5.23.0 safetensors==0.8.0

cat >"$folder/half.py" <<'PYTHON'
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1], "model")
config = LlamaConfig(
    vocab_size=11, hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
    num_key_value_heads=1, max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)
torch.manual_seed(0)
model = LlamaForCausalLM(config)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
cast = model.half().eval()
cast.save_pretrained(folder)
opened = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).eval()
one, other = cast.state_dict(), opened.state_dict()
same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
print(f"state dicts: {'equal' if same else 'different'}")
rounded, exact = (of.model.rotary_emb.inv_freq for of in (cast, opened))
print(f"inv_freq: {rounded.dtype} by half(), {exact.dtype} by from_pretrained")
error = (4000 * (rounded.double() - exact.double())).abs().max().item()
print(f"largest error of an angle at position 4000: {'over' if error > 0.1 else 'under'} 0.1 radians")
words = torch.randint(3, 11, (1, 600), generator=torch.Generator().manual_seed(0))


def logits(network):
    with torch.no_grad():
        return network(words).logits


print(f"logits: {'equal' if torch.equal(logits(cast), logits(opened)) else 'different'}")
cast.model.rotary_emb.inv_freq = exact.clone()
print(f"logits with the frequencies computed again: {'equal' if torch.equal(logits(cast), logits(opened)) else 'different'}")
PYTHON

printf 'transformers 5.23.0\n'
"$folder/venv/bin/python" "$folder/half.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
state dicts: equal
inv_freq: torch.float16 by half(), torch.float32 by from_pretrained
largest error of an angle at position 4000: over 0.1 radians
logits: different
logits with the frequencies computed again: equal
SEEN
