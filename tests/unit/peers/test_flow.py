"""Flow matching: coordinates, the solver against a known flow, and that it learns."""

import pytest
import torch
from peers import PEERS
from torch import nn

from rpg.config.peers import FlowParams
from rpg.peers.base import PeerConditions, ZooVectors
from rpg.peers.flow import Flow
from rpg.tokenizer.layout import Layout

LAYOUT = Layout.of({"weight": torch.zeros(12)}, width=4)


def zoo(count: int = 4) -> ZooVectors:
    points = torch.randn(count, 12, generator=torch.Generator().manual_seed(1))
    return ZooVectors(points, torch.eye(count), torch.arange(count), torch.zeros(1, 12).long())


def model(count: int = 4, **keys: object) -> Flow:
    return Flow(
        FlowParams.model_validate({**PEERS["flow"], **keys}),
        LAYOUT.padding(),
        PeerConditions({"permutation_state": count}),
    )


@pytest.mark.parametrize("components", [None, 3, 8])
def test_coordinates_return_to_the_points(components: int | None) -> None:
    flow, vectors = model(components=components), zoo()
    flow.fit(vectors)
    coordinates = flow.flat(vectors.points_NP)
    assert coordinates.shape == (4, components or 12)
    # Four points have three principal components, so more find nothing.
    scaled = coordinates * flow.scale
    back = flow.mean_P + (scaled @ flow.basis_KP if components else scaled)
    assert torch.allclose(back, vectors.points_NP, atol=1e-5)
    assert coordinates.square().mean().sqrt().item() == pytest.approx(1.0, rel=1e-4)


def test_solver_integrates_a_known_velocity() -> None:
    """dx / dt = x has the solution x · e; four steps of fourth order are exact to four digits."""

    class Growing(nn.Module):
        def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
            return x

    flow = model(components=None)
    flow.velocity = Growing()  # type: ignore[assignment]
    draws = [torch.Generator().manual_seed(0)]
    (point,) = flow.points({"permutation_state": torch.eye(4)[:1]}, draws, 1.0)
    start = 0.01 * torch.randn(12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(point, start * torch.e, rtol=2e-4)


def test_it_learns_the_network_of_each_state() -> None:
    flow, vectors = model(components=3, hidden=32, steps=20), zoo()
    flow.fit(vectors)
    optimizer = torch.optim.Adam(flow.parameters(), 0.01)
    for step in range(300):
        optimizer.zero_grad()
        loss = flow.loss(0, vectors.points_NP, torch.eye(4), torch.zeros(0), torch.Generator().manual_seed(step))
        loss.backward()
        optimizer.step()
    draws = [torch.Generator().manual_seed(k) for k in range(4)]
    with torch.inference_mode():
        points = flow.points({"permutation_state": torch.eye(4)}, draws, 1.0)
    errors = (points - vectors.points_NP).square().mean(1).sqrt()
    assert errors.max() < 0.2
