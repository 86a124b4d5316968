"""The places of tensors in tokens."""

import pytest
import torch

from rpg.tokenizer.layout import Layout
from rpg.utils.errors import UserError


def test_nothing_to_tokenize_is_refused() -> None:
    with pytest.raises(UserError, match="no tensor"):
        Layout.of({"count": torch.tensor(1)}, 4)


def test_large_finite_weights_are_no_fault() -> None:
    """Their sum overflows."""
    state_dict = {"weight": torch.full((4,), 3e38), "other": torch.full((4,), 6e4, dtype=torch.float16)}
    Layout.of(state_dict, 2).check(state_dict, "file", "remedy")


def test_each_output_channel_begins_with_a_token() -> None:
    """A convolution of 3 channels with 6 weights each, a bias of 3 and a counter, in tokens of 4."""
    state_dict = {"conv.weight": torch.zeros(3, 2, 3), "conv.bias": torch.zeros(3), "count": torch.tensor(1)}
    layout = Layout.of(state_dict, 4, by_channel=True)
    assert [(tensor.parts, tensor.tokens) for tensor in layout.tensors] == [(3, 6), (1, 1), (1, 0)]
    assert layout.padding().sum(1).tolist() == [0, 2] * 3 + [1]
    assert layout.weights == 21
    plain = Layout.of(state_dict, 4)
    assert [tensor.tokens for tensor in plain.tensors] == [5, 1, 0]
    described = layout.tree()["tensors"]
    assert [tensor.get("parts") for tensor in described] == [3, None, None]


def test_a_channels_place_in_its_token_does_not_depend_on_the_width() -> None:
    """Weight (o, i, k) is number 3 i + k of the token of channel o, in networks of any width."""
    for width in (2, 4):
        weights = torch.arange(1.0, 1 + 3 * width * width).view(width, width, 3)
        layout = Layout.of({"conv.weight": weights}, 12, by_channel=True)
        rows = layout.tensors[0].padded(weights, 12).view(width, 12)
        assert torch.equal(rows[1, : 3 * width], weights[1].flatten())
        assert rows[:, 3 * width :].isnan().all()
        assert torch.equal(layout.tensors[0].unpadded(rows).view_as(weights), weights)
