from pathlib import Path

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from rpg.config.loading import load_params
from rpg.evaluation.supports import Support, best_on, nearest_mean, probed, steps_of, tuned, voted
from rpg.tasks.classification.task import Classification
from rpg.tasks.loading import load_task

# Two images of no near 0, two of yes near 10.
FEATURES = torch.tensor([[0.0, 1.0], [1.0, 0.0], [10.0, 9.0], [9.0, 10.0]])
SUPPORT = Support("01", torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]), FEATURES)


def test_answers_from_features() -> None:
    asked = torch.tensor([[2.0, 2.0], [8.0, 8.0], [5.1, 5.1]])
    assert nearest_mean(SUPPORT, asked).tolist() == [0, 1, 1]
    assert probed(SUPPORT, asked).tolist() == [0, 1, 1]
    assert [side.tolist() for side in SUPPORT.sides()] == [FEATURES[:2].tolist(), FEATURES[2:].tolist()]


def test_classes_are_counted_for_the_side_that_shows_them() -> None:
    shown = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.0, 0.9, 0.1]])
    # Class 0: 1.5 of no and 0.1 of yes; class 1: 0.5 and 1.1; class 2: 0 and 0.8.
    asked = torch.eye(3)
    assert voted(SUPPORT, shown, asked).tolist() == [0, 1, 1]


def test_steps_of_epochs() -> None:
    assert [steps_of(epochs, count, 10) for epochs, count in ((1, 2), (1, 10), (1, 40), (10, 40), (3, 25))] == [
        1,
        1,
        4,
        40,
        6,
    ]


@pytest.fixture
def task(tasks: Path) -> Classification:
    return load_task(load_params(tasks / "params.yaml").experiment("tasks").task, None)


def networks(task: Classification, count: int) -> list[dict[str, torch.Tensor]]:
    return [task.build().state_dict() for _ in range(count)]


def test_fine_tuning_is_that_of_each_network_alone(task: Classification) -> None:
    inputs, answers = torch.randn(2, 6, 1, 8, 8), torch.tensor([[0, 1, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0]])
    starts = networks(task, 2)
    options = {"steps": 5, "batch": 4, "learning_rate": 0.01, "seed": 3}
    together = tuned(task, starts, inputs, answers, **options)
    for index in range(2):
        (alone,) = tuned(
            task, starts[index : index + 1], inputs[index : index + 1], answers[index : index + 1], **options
        )
        for name, tensor in alone.items():
            torch.testing.assert_close(together[index][name], tensor, atol=2e-4, rtol=1e-3)
    # One step by hand: AdamW's first step is the sign of the gradient, times the learning rate.
    (once,) = tuned(task, starts[:1], inputs[:1], answers[:1], steps=1, batch=6, learning_rate=0.01, seed=3)
    network = task.build().eval()
    network.load_state_dict(starts[0])
    functional.cross_entropy(network(inputs[0]), answers[0]).backward()
    moved = once["fc.weight"] - starts[0]["fc.weight"]
    torch.testing.assert_close(moved, -0.01 * network.fc.weight.grad.sign(), atol=2e-4, rtol=0)
    # A support set is too small to count BatchNorm's statistics.
    assert torch.equal(once["bn1.running_mean"], starts[0]["bn1.running_mean"])


def test_the_stored_network_with_the_least_loss(task: Classification) -> None:
    stored, inputs, answers = networks(task, 18), torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 1, 0, 1])
    losses = [float(functional.cross_entropy(functional_call(task.network, one, (inputs,)), answers)) for one in stored]
    assert best_on(task, stored, inputs, answers) == losses.index(min(losses))
