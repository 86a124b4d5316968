"""The Gaussian of each weight, against numbers by hand."""

import pytest
import torch
from peers import PEERS

from rpg.config.peers import GaussianParams
from rpg.peers.base import PeerConditions, ZooVectors
from rpg.peers.gaussian import Gaussian
from rpg.tokenizer.layout import Layout

LAYOUT = Layout.of({"weight": torch.zeros(2)}, width=4)
POINTS = torch.tensor([[0.0, 1.0], [2.0, 1.0], [10.0, 5.0], [10.0, 7.0]])
ZOO = ZooVectors(POINTS, torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), torch.zeros(1, 2).long())


def fitted(sizes: dict[str, int]) -> Gaussian:
    model = Gaussian(GaussianParams.model_validate(PEERS["gaussian"]), LAYOUT.padding(), PeerConditions(sizes))
    model.fit(ZOO)
    return model


def test_mean_and_deviation_of_each_state() -> None:
    model = fitted({"permutation_state": 2})
    assert model.mean_SP.tolist() == [[1.0, 1.0], [10.0, 6.0]]
    assert torch.allclose(model.std_SP, torch.tensor([[2**0.5, 0.0], [0.0, 2**0.5]]))
    values = {"permutation_state": torch.tensor([[0.0, 1.0]])}
    draws = [torch.Generator().manual_seed(0)]
    assert model.points(values, draws, 0.0).tolist() == [[10.0, 6.0]]
    noise = torch.randn(2, generator=torch.Generator().manual_seed(0))
    (point,) = model.points(values, [torch.Generator().manual_seed(0)], 1.0)
    assert point.tolist() == pytest.approx([10.0, 6.0 + 2**0.5 * noise[1].item()])


def test_one_gaussian_without_states() -> None:
    model = fitted({"unconditional": 1})
    assert model.mean_SP.tolist() == [[5.5, 3.5]]
    draws = [torch.Generator().manual_seed(k) for k in range(2000)]
    points = model.points({"unconditional": torch.zeros(2000, 1)}, draws, 1.0)
    assert points.std(0).tolist() == pytest.approx(POINTS.std(0).tolist(), rel=0.05)
    assert model.shares == ()
