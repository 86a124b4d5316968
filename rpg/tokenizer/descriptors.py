"""Descriptors of tokens: numbers that say the same about a token in every architecture.

A position counts tensors and tokens, so tensor 7 is a convolution in one architecture and a bias in another. A
descriptor names the kind and the shape of the token's tensor, and its place as a share of the tensor and the network.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from rpg.tokenizer.layout import Layout, TensorLayout

Kind = Literal["convolution", "linear", "norm", "bias", "running_mean", "running_var", "embedding"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# F, the numbers of a descriptor: the kind as one-hot, log2 of four lengths of the tensor, log2 of the number of tokens
# in the tensor, four places, and log2 of the network's tensors and weights.
FEATURES = len(KINDS) + 4 + 1 + 4 + 2


def kind(tensor: TensorLayout) -> Kind:
    """Return the kind of a tensor, by its last name and its number of dimensions."""
    last = tensor.name.rpartition(".")[2]
    if last in ("running_mean", "running_var"):
        return "running_mean" if last == "running_mean" else "running_var"
    if last == "bias":
        return "bias"
    if len(tensor.shape) >= 4:
        return "convolution"
    # A Vision Transformer's class token and position embedding are [1, n, C].
    if len(tensor.shape) == 3:
        return "convolution" if last == "weight" else "embedding"
    return "linear" if len(tensor.shape) == 2 else "norm"


def descriptors(layout: Layout) -> Tensor:
    """Return [L, F] float32: the descriptor of each token of `layout`, with numbers from about -1 to 1."""
    count = len(layout.tokenized)
    whole = [math.log2(count) / 8, math.log2(layout.weights) / 16]
    rows = []
    for index, tensor in enumerate(layout.tokenized):
        one_hot = [float(kind(tensor) == other) for other in KINDS]
        lengths = [*tensor.shape, 1, 1, 1][:3]
        shape = [math.log2(length) / 8 for length in (*lengths, math.prod(tensor.shape) / math.prod(lengths))]
        for token in range(tensor.tokens):
            share, depth = (token + 0.5) / tensor.tokens, (index + 0.5) / count
            places = [share, math.sin(math.pi * share), depth, math.sin(math.pi * depth)]
            rows.append([*one_hot, *shape, math.log2(tensor.tokens) / 8, *places, *whole])
    return torch.tensor(rows)
