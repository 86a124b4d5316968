"""The user's module `mine.py` of each case, as text: data, `build` and `score`.

Every module has `points(split)`, which returns inputs and targets, and `logits(network, inputs)`. The split "base" is
another task, on which the networks below adapters are trained first. They lie in the file base.pt.
"""

DIGITS = '''
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

@cache
def points(split):
    """Return images of digits [n, 64] and their classes [n]; the images of "base" stand on their heads."""
    images, digits = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:900], "base": order[:900], "validation": order[900:1300], "test": order[1300:]}
    images = (images[parts[split]] / 16).float()
    return images.flip(-1) if split == "base" else images, digits[parts[split]]

def logits(network, inputs):
    return network(inputs)
'''
CHAIN = '''
from functools import cache

import torch
from torch import nn
import transformers

@cache
def points(split):
    """Return sequences [n, 8] of a Markov chain with twelve states, and the next states [n, 8].

    A state has one successor in 92 % of the cases. "base" is another chain.
    """
    count = {"validation": 60, "test": 60}.get(split, 200)
    draw = torch.Generator().manual_seed(["base", "train", "validation", "test"].index(split))
    successor = torch.randperm(12, generator=torch.Generator().manual_seed(1 if split == "base" else 0))
    states = [torch.randint(12, (count,), generator=draw)]
    for _ in range(8):
        other = torch.rand(count, generator=draw) > 0.92
        states.append(torch.where(other, torch.randint(12, (count,), generator=draw), successor[states[-1]]))
    chain = torch.stack(states, 1)
    return chain[:, :-1], chain[:, 1:]

def logits(network, inputs):
    return network(input_ids=inputs).logits
'''
SCORE = """
def score(network, split):
    inputs, targets = points(split)
    return logits(network, inputs).argmax(-1).flatten(), targets.flatten()
"""
ATTENTION = '''
class Rows(nn.Module):
    """Reads an image row by row; a row attends to those above it."""

    def __init__(self):
        super().__init__()
        self.embed, self.positions = nn.Linear(8, 16), nn.Parameter(torch.randn(8, 16) / 4)
        self.queries, self.keys, self.values = (nn.Linear(16, 16) for _ in range(3))
        self.hidden, self.classes = nn.Linear(16, 32), nn.Linear(32, 10)
        self.register_buffer("mask", MASK)

    def forward(self, images):
        rows = self.embed(images.unflatten(-1, (8, 8))) + self.positions
        heat = self.queries(rows) @ self.keys(rows).mT / 4
        rows = rows + MASKED.softmax(-1) @ self.values(rows)
        return self.classes(self.hidden(rows).relu().mean(-2))

def build():
    return Rows()
'''
BASE = """
def build():
    network = plain()
    network.load_state_dict(torch.load("base.pt"))
    return adapt(network)
"""
IMPORTS = """
from peft import AdaLoraConfig, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig
"""
# The settings that most adapters share.
LORA = "r=4, lora_alpha=8, target_modules=['0', '2']"


def digits(build: str) -> str:
    """Return a module on the digits with a function `build`, given as text."""
    return f"{DIGITS}\n{build}\n{SCORE}"


def sequence(*modules: str, then: str = "") -> str:
    """Return a module on the digits whose network is a sequence of modules; `then` changes `network` in place."""
    body = f"    network = nn.Sequential({', '.join(modules)})\n{then and f'    {then}'}\n    return network\n"
    return digits(f"def build():\n{body}")


def attention(mask: str, masked: str) -> str:
    """Return a module on the digits whose attention has a mask; `masked` is the masked heat map, as an expression."""
    return digits(ATTENTION.replace("MASKED", f"({masked})").replace("MASK", mask))


def language_model(kind: str, settings: str = "") -> str:
    """Return a module on the chain with a model of transformers."""
    return f"{CHAIN}\n{model_function('build', kind, settings)}\n{SCORE}"


def model_function(name: str, kind: str, settings: str = "") -> str:
    """Return a function, as text, that builds a language model of transformers."""
    sizes = "vocab_size=12, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2"
    config = f"transformers.{kind}Config({sizes}, num_key_value_heads=2, {settings})"
    return f"def {name}():\n    return transformers.{kind}ForCausalLM({config})\n"


def adapter(config: str, network: str = "", also: str = "") -> str:
    """Return a module whose network is a base with an adapter of peft; `network` defaults to two linear modules."""
    network = network or "nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))"
    plain = f"def plain():\n    return {network}\n"
    return f"{IMPORTS}{DIGITS}\n{plain}\n{_adapt(config, also)}{BASE}\n{SCORE}"


def language_adapter(config: str, kind: str = "Llama", settings: str = "") -> str:
    """Return a module whose network is a language model with an adapter."""
    return f"{IMPORTS}{CHAIN}\n{model_function('plain', kind, settings)}\n{_adapt(config, '')}{BASE}\n{SCORE}"


def _adapt(config: str, also: str) -> str:
    return f"def adapt(network):\n    return get_peft_model(network, {config}{also})\n"
