import numpy as np
import torch
from torch import nn

from rpg.evaluation.scale_walk import find_scaling
from rpg.evaluation.verification import as_arrays


def test_canonical_by_hand() -> None:
    """Producers (3, 4) and (0, 2), consumers 2 and 8: the norms of both become the root of their product."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    scaling = find_scaling(network, torch.randn(3, 2))
    tensors = {
        "0.weight": np.array([[3.0, 4.0], [0.0, 2.0]], np.float32),
        "2.weight": np.array([[2.0, 8.0]], np.float32),
    }
    scaling.canonical(tensors)
    root = 10**0.5
    np.testing.assert_allclose(tensors["0.weight"], [[0.6 * root, 0.8 * root], [0, 4]], rtol=1e-6)
    np.testing.assert_allclose(tensors["2.weight"], [[root, 4]], rtol=1e-6)


def test_a_dead_unit_stays_finite() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    scaling = find_scaling(network, torch.randn(3, 2))
    tensors = as_arrays(network.state_dict())
    tensors["0.weight"][0], tensors["0.bias"][0] = 0, 0
    tensors["2.weight"][:, 1] = 0
    scaling.canonical(tensors)
    assert all(np.isfinite(array).all() for array in tensors.values())


def test_folding_keeps_the_outputs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)).eval()
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor += torch.rand(tensor.shape)
    x = torch.randn(3, 1, 8, 8)
    scaling = find_scaling(network, x)
    tensors = as_arrays(network.state_dict())
    scaling.fold(tensors)
    with torch.inference_mode():
        before = network(x)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
    assert not tensors["1.running_mean"].any()
