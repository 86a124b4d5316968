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
