"""The places of tensors in tokens."""

import pytest
import torch

from rpg.tokenizer.layout import Layout
from rpg.utils.errors import UserError


def test_nothing_to_tokenize_is_refused() -> None:
    with pytest.raises(UserError, match="no tensor"):
        Layout.of({"count": torch.tensor(1)}, 4)
