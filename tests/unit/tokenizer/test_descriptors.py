"""Descriptors of tokens."""

import math

import pytest
import torch

from rpg.tokenizer.descriptors import FEATURES, KINDS, descriptors, kind
from rpg.tokenizer.layout import Layout, TensorLayout


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("conv1.weight", (8, 4, 3, 3), "convolution"),
        ("audio.weight", (8, 4, 3), "convolution"),
        ("fc.weight", (10, 8), "linear"),
        ("bn1.weight", (8,), "norm"),
        ("block.gamma", (8,), "norm"),
        ("fc.bias", (10,), "bias"),
        ("bn1.running_mean", (8,), "running_mean"),
        ("bn1.running_var", (8,), "running_var"),
        ("pos_embed", (1, 5, 8), "embedding"),
    ],
)
def test_the_kind_of_a_tensor(name: str, shape: tuple[int, ...], expected: str) -> None:
    assert kind(TensorLayout(name, shape, "float32", 0, 1)) == expected


def test_numbers_of_a_token() -> None:
    layout = Layout.of({"conv.weight": torch.zeros(16, 4, 3, 3), "conv.bias": torch.zeros(16)}, 256)
    found = descriptors(layout)
    assert found.shape == (layout.length, FEATURES) == (4, FEATURES)
    kinds = found[:, : len(KINDS)].argmax(1).tolist()
    assert [KINDS[index] for index in kinds] == ["convolution"] * 3 + ["bias"]
    # The lengths 16, 4, 3 and 3 of the convolution, its 3 tokens, and the second token's place.
    numbers = found[1, len(KINDS) :].tolist()
    lengths = [math.log2(length) / 8 for length in (16, 4, 3, 3, 3)]
    assert numbers[:5] == pytest.approx(lengths)
    assert numbers[5:9] == pytest.approx([0.5, 1, 0.25, math.sin(math.pi / 4)])
    assert numbers[9:] == pytest.approx([1 / 8, math.log2(16 * 4 * 9 + 16) / 16])


def test_tokens_of_a_network_differ() -> None:
    layout = Layout.of({"a.weight": torch.zeros(16, 16), "b.weight": torch.zeros(16, 16)}, 16)
    assert len(descriptors(layout).unique(dim=0)) == layout.length == 32
