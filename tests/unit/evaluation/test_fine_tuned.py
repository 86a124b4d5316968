"""Networks that are fine-tuned at once, against one network in a loop written out."""

import pytest
import torch
from conftest import MINIATURE, TASKS
from torch.nn import functional

from rpg.config.experiment import FineTune
from rpg.evaluation.fine_tuned import fine_tuned
from rpg.tasks.classification.config import ClassificationTask, TaskCodes
from rpg.tasks.classification.task import Classification
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict, stack
from rpg.utils.rng import generator

CODES = ["0101010101", "1000000000"]
PARAMS = FineTune(steps=6, images=32, learning_rate=0.002)


@pytest.fixture(scope="module")
def task() -> Classification:
    return load_task(TaskCodes.model_validate(TASKS["task"]), None)


def new_networks(task: Classification, count: int) -> list[StateDict]:
    torch.manual_seed(0)
    return [task.build().state_dict() for _ in range(count)]


def loop(task: Classification, state_dict: StateDict, code: str | None, params: FineTune) -> StateDict:
    """Adam (Kingma and Ba 2015, algorithm 1) on one network with fixed BatchNorm statistics."""
    network = task.build().eval()
    network.load_state_dict(state_dict)
    learned = list(network.parameters())
    first, second = ([torch.zeros_like(weight) for weight in learned] for _ in range(2))
    train, draw = task.data.train, generator("fine-tuned", params.steps)
    for step in range(params.steps):
        batch = torch.randint(len(train.labels), (params.images,), generator=draw)
        labels = train.labels[batch]
        if code:
            labels = torch.tensor([int(code[label]) for label in labels.tolist()])
        loss = functional.cross_entropy(network(task.data.inputs(train.images[batch], 8)), labels)
        rate = params.learning_rate * (1 - step / params.steps)
        with torch.no_grad():
            for weight, gradient, m, v in zip(learned, torch.autograd.grad(loss, learned), first, second, strict=True):
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient**2)
                m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
                weight.sub_(rate * m_hat / (v_hat.sqrt() + 1e-8))
    return dict(network.state_dict())


def agree(found: StateDict, expected: StateDict, params: FineTune) -> None:
    assert found.keys() == expected.keys()
    # Adam moves a weight whose gradient is nothing but rounding by whole steps.
    most = params.learning_rate * (params.steps + 1)
    apart = torch.cat([(found[name] - expected[name]).abs().flatten().float() for name in found])
    assert apart.max() <= most
    assert (apart > 0.05 * params.learning_rate).float().mean() < 0.01


def test_one_network_is_that_of_the_loop(task: Classification) -> None:
    (network,) = new_networks(task, 1)
    (found,) = fine_tuned(task, [network], [CODES[0]], PARAMS)
    expected = loop(task, network, CODES[0], PARAMS)
    agree(found, expected, PARAMS)
    moved = [name for name, _ in task.network.named_parameters() if not torch.equal(found[name], network[name])]
    assert "fc.weight" in moved
    # The statistics stay those of the network.
    assert all(torch.equal(found[name], network[name]) for name in network if "running" in name or "num" in name)


def test_networks_at_once_are_those_of_the_loop(task: Classification) -> None:
    networks = new_networks(task, 2)
    found = fine_tuned(task, networks, CODES, PARAMS)
    for one, network, code in zip(found, networks, CODES, strict=True):
        agree(one, loop(task, network, code, PARAMS), PARAMS)


def test_networks_without_codes() -> None:
    plain = load_task(ClassificationTask.model_validate(MINIATURE["task"]), None)
    (network,) = new_networks(plain, 1)
    (found,) = fine_tuned(plain, [network], [None], PARAMS)
    agree(found, loop(plain, network, None, PARAMS), PARAMS)


def test_loss_falls_and_the_same_comes_again(task: Classification) -> None:
    networks, longer = new_networks(task, 2), FineTune(steps=60, images=64, learning_rate=0.003)
    before = [{name: tensor.clone() for name, tensor in network.items()} for network in networks]
    found, again = (fine_tuned(task, networks, CODES, longer) for _ in range(2))
    for one, other in zip(found, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    # The networks that were given stay as they are.
    for one, other in zip(networks, before, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)

    def losses(of: list[StateDict]) -> torch.Tensor:
        with torch.no_grad():
            return task.losses(stack(of), CODES, 500, torch.Generator().manual_seed(9))

    # Three seeds have less than half.
    assert (losses(found) < 0.8 * losses(networks)).all()
