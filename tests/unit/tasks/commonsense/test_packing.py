"""Texts side by side: nothing lost, and what a model learns from them is what it learns from each alone."""

import random
from typing import Any

import pytest
import torch

from rpg.tasks.commonsense.packing import IGNORED, MAX_ROW_FACTOR, Packed, pack


def test_rows_take_the_fewest_tokens() -> None:
    # 32 + 6 and 26 + 8: two rows of 38, where rows of the longest text's 32 would be three.
    rows, length = pack([6, 26, 32, 8])
    assert (sorted(map(sorted, rows)), length) == ([[0, 2], [1, 3]], 38)
    assert pack([7]) == ([[0]], 7)
    assert pack([5, 5, 5]) == ([[0], [1], [2]], 5)


def test_every_text_is_in_one_row_and_rows_are_short() -> None:
    draw, tokens = random.Random(0), 0
    for _ in range(50):
        lengths = [draw.choice((6, 8, 17, 22, 26, 29, 32)) for _ in range(64)]
        rows, length = pack(lengths)
        assert sorted(index for row in rows for index in row) == list(range(64))
        assert max(lengths) <= length <= MAX_ROW_FACTOR * max(lengths)
        assert all(sum(lengths[index] for index in row) <= length for row in rows)
        assert len(rows) * length <= 64 * max(lengths)
        tokens += len(rows) * length - sum(lengths)
    # What is left empty, of 64 × 50 texts; padded it would be 38,845.
    assert tokens < 5000


def test_positions_start_anew_and_no_text_begins_with_a_label() -> None:
    texts = [
        {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]},
        {"input_ids": [9, 10], "labels": [IGNORED, 10]},
        {"input_ids": [11, 12, 13], "labels": [11, 12, 13]},
    ]
    batch: dict[str, Any] = Packed(pad=3)(texts)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 3], [11, 12, 13, 9, 10]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, 8, IGNORED], [IGNORED, 12, 13, IGNORED, 10]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_gradient_are_those_of_the_texts_one_by_one(attention: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config: Any = LlamaConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        attn_implementation=attention,
    )
    model: Any = LlamaForCausalLM(config)
    draw = random.Random(1)
    texts = []
    for length in (6, 9, 5, 14):
        tokens = [draw.randrange(1, 20) for _ in range(length)]
        texts.append({"input_ids": tokens, "labels": [IGNORED, *tokens[1:]]})
    count = sum(len(text["labels"]) - 1 for text in texts)

    def learned(batches: list[dict]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        losses = [model(**batch, num_items_in_batch=count).loss for batch in batches]
        loss = torch.stack(losses).sum()
        loss.backward()
        return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]

    batch: dict[str, Any] = Packed(pad=0)(texts)
    assert batch["input_ids"].shape == (2, 19)
    loss, gradients = learned([batch])
    alone, each = learned([{name: torch.tensor([ids]) for name, ids in text.items()} for text in texts])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert loss > 1
    for gradient, expected in zip(gradients, each, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
        assert expected.abs().max() > 1e-3
