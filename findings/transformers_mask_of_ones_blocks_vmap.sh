#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.11.0: under torch.func.vmap a language model with its default attention takes no
# attention mask, not even one of ones. `attn_implementation="eager"` takes it, and without a mask both attentions work.
#
# vmap runs one model with a batch of weights, such as several LoRA adapters, each on texts of its own. With the default
# attention (sdpa) the model looks whether the mask is all ones and, if so, leaves it out. Under vmap no tensor may
# decide a branch, so the call raises RuntimeError. Texts that are padded on the right need no mask for a causal loss.
#
# Seen, for Llama, Qwen2 and GPT-2:
#   sdpa:  mask RuntimeError, no mask equal
#   eager: mask equal, no mask equal
#
# "equal": the logits of each network are those that it has alone. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.11.0 numpy==2.4.6 transformers==5.23.0

cat >vmap.py <<'PYTHON'
import torch
import transformers

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MODELS = {
    "Llama": {**SIZES, "intermediate_size": 16},
    "Qwen2": {**SIZES, "intermediate_size": 16, "num_key_value_heads": 2},
    "GPT2": {"vocab_size": 20, "n_embd": 16, "n_layer": 1, "n_head": 2},
}


def outcome(model: torch.nn.Module, with_mask: bool) -> str:
    texts = torch.arange(1, 13).view(2, 1, 6)
    weights = {name: torch.stack([of, 1.1 * of]).detach() for name, of in model.named_parameters()}

    def logits(own, text, mask):
        inputs = {"input_ids": text, "use_cache": False, **({"attention_mask": mask} if with_mask else {})}
        return torch.func.functional_call(model, own, args=(), kwargs=inputs).logits

    try:
        found = torch.func.vmap(logits)(weights, texts, torch.ones_like(texts))
    except RuntimeError:
        return "RuntimeError"
    each = [({name: of[k] for name, of in weights.items()}, texts[k], torch.ones_like(texts[k])) for k in (0, 1)]
    alone = torch.stack([logits(*one) for one in each])
    return "equal" if torch.allclose(found, alone, atol=1e-5) else "differs"


for attention in ("sdpa", "eager"):
    lines = set()
    for name, sizes in MODELS.items():
        torch.manual_seed(0)
        kind = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
        config = getattr(transformers, f"{name}Config")(**sizes)
        model = kind._from_config(config, attn_implementation=attention).eval()
        lines.add(f"mask {outcome(model, True)}, no mask {outcome(model, False)}")
    print(f"{attention}: {' / '.join(sorted(lines))}")
PYTHON

seen=$(venv/bin/python vmap.py 2>/dev/null)
printf 'torch 2.11.0, transformers 5.23.0\n%s\n' "$seen"
[ "$seen" = "$(printf 'sdpa: mask RuntimeError, no mask equal\neager: mask equal, no mask equal')" ]
