import math

import pytest
import torch

from rpg.model.embeddings import position_embedding, time_embedding


def test_position_embedding_by_hand() -> None:
    positions = torch.tensor([[0, 0], [3, 5]])
    embedding = position_embedding(positions, 8)
    f = 10000 ** (-2 / 4)
    expected = [math.sin(3), math.cos(3), math.sin(3 * f), math.cos(3 * f)]
    expected += [math.sin(5), math.cos(5), math.sin(5 * f), math.cos(5 * f)]
    torch.testing.assert_close(embedding[1], torch.tensor(expected))
    torch.testing.assert_close(embedding[0], torch.tensor([0.0, 1.0] * 4))


def test_position_embedding_needs_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        position_embedding(torch.zeros(1, 2), 6)


def test_time_embedding_by_hand() -> None:
    embedding = time_embedding(torch.tensor([0, 7]), 256)
    assert embedding.shape == (2, 256)
    torch.testing.assert_close(embedding[0], torch.tensor([1.0] * 128 + [0.0] * 128))
    k = 100
    angle = 7 * 10000 ** (-k / 128)
    assert embedding[1, k].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert embedding[1, 128 + k].item() == pytest.approx(math.sin(angle), abs=1e-6)
