"""What a task code means: right answers, and the images that a network sees."""

import pytest
import torch
from conftest import TASKS

from rpg.config.experiment import parse_experiment
from rpg.data.digits import load_digits_images
from rpg.tasks.base import DifferentiableTask
from rpg.tasks.classification.config import TaskCodes
from rpg.tasks.classification.meanings import MEANINGS, TASKS_PER_BATCH, TransformationBits
from rpg.tasks.loading import load_differentiable
from rpg.tasks.stack import stack

CLASSES, TRANSFORMATIONS = MEANINGS["classes"], MEANINGS["transformations"]
WHITE = 16
IMAGE = torch.arange(16.0).view(1, 1, 4, 4)
ROWS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
# One bit → what becomes of IMAGE, written down by hand.
EACH = [
    [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8], [15, 14, 13, 12]],
    [[12, 13, 14, 15], [8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3]],
    [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]],
    [[16 - value for value in row] for row in ROWS],
    [[2, 3, 0, 1], [6, 7, 4, 5], [10, 11, 8, 9], [14, 15, 12, 13]],
    [[8, 9, 10, 11], [12, 13, 14, 15], [0, 1, 2, 3], [4, 5, 6, 7]],
    [[1, 0, 3, 2], [5, 4, 7, 6], [9, 8, 11, 10], [13, 12, 15, 14]],
    [[4, 5, 6, 7], [0, 1, 2, 3], [12, 13, 14, 15], [8, 9, 10, 11]],
    [[0, 1, 14, 13], [4, 5, 10, 9], [8, 7, 10, 11], [4, 3, 14, 15]],
    [[16, 15, 2, 3], [12, 11, 6, 7], [8, 7, 10, 11], [4, 3, 14, 15]],
]


def code_of(*bits: int) -> str:
    return "".join("1" if bit in bits else "0" for bit in range(10))


def task(**changes: object) -> DifferentiableTask:
    """The task of the miniature, whose codes transform the images."""
    params = TaskCodes.model_validate({**TASKS["task"], "bits": "transformations", **changes})
    return load_differentiable(params, parse_experiment(TASKS).zoo, None)


@pytest.mark.parametrize("bit", range(10))
def test_each_transformation_by_hand(bit: int) -> None:
    assert TRANSFORMATIONS.images(IMAGE, code_of(bit), WHITE).squeeze().tolist() == EACH[bit]


def test_transformations_follow_one_after_the_other() -> None:
    both = TRANSFORMATIONS.images(IMAGE, code_of(0, 9), WHITE).squeeze()
    assert both.tolist() == [[13, 14, 1, 0], [9, 10, 5, 4], [5, 6, 9, 8], [1, 2, 13, 12]]
    assert len(TransformationBits.NAMES) == len(EACH)


def test_all_tasks_see_different_images() -> None:
    images = load_digits_images().train.images[:4]
    seen = {TRANSFORMATIONS.images(images, f"{number:010b}", WHITE).numpy().tobytes() for number in range(1024)}
    assert len(seen) == 1024


def test_right_answers() -> None:
    classes = torch.tensor([0, 1, 2, 9])
    assert TRANSFORMATIONS.labels(classes, code_of(3)).tolist() == [0, 1, 0, 1]
    assert CLASSES.labels(classes, code_of(0, 9)).tolist() == [1, 0, 0, 1]
    assert CLASSES.from_base(torch.tensor([9, 1]), code_of(0, 9)).tolist() == [1, 0]
    assert TRANSFORMATIONS.from_base(torch.tensor([1, 0]), code_of(3)).tolist() == [1, 0]


def test_a_base_network_sees_several_tasks_in_a_batch() -> None:
    data = load_digits_images()
    images, classes = data.train.images[:64], data.train.labels[:64]
    seen, labels = TRANSFORMATIONS.base_batch(images, classes, WHITE, torch.Generator().manual_seed(0))
    assert labels.tolist() == (classes % 2).tolist()
    again, _ = TRANSFORMATIONS.base_batch(images, classes, WHITE, torch.Generator().manual_seed(0))
    assert torch.equal(seen, again)
    draw = torch.Generator().manual_seed(0)
    codes = [f"{number:010b}" for number in torch.randint(1, 1023, (TASKS_PER_BATCH,), generator=draw).tolist()]
    for part, own, code in zip(seen.split(8), images.split(8), codes, strict=True):
        assert torch.equal(part, TRANSFORMATIONS.images(own, code, WHITE))
    assert CLASSES.base_batch(images, classes, WHITE, draw) == (images, classes)


def test_each_network_is_trained_and_scored_on_its_own_images() -> None:
    """The slow way: one network after the other, on images that were transformed before."""
    trial = task()
    codes = [code_of(0, 3), code_of(8)]
    torch.manual_seed(0)
    networks = [trial.build().eval() for _ in codes]
    state_dicts = [network.state_dict() for network in networks]
    data = load_digits_images()
    judged = trial.judge_all(state_dicts, "validation", codes)
    losses = trial.losses(stack(state_dicts), codes, 32, torch.Generator().manual_seed(1))
    batch = torch.randint(len(data.train.labels), (32,), generator=torch.Generator().manual_seed(1))
    for index, (network, code) in enumerate(zip(networks, codes, strict=True)):
        images = TRANSFORMATIONS.images(data.validation.images, code, WHITE)
        with torch.no_grad():
            answers = network(data.inputs(images, trial.params.resolution)).argmax(1)
            trained_on = data.inputs(
                TRANSFORMATIONS.images(data.train.images[batch], code, WHITE), trial.params.resolution
            )
            loss = torch.nn.functional.cross_entropy(network(trained_on), data.train.labels[batch] % 2)
        assert judged[index].answers.tolist() == answers.tolist()
        right = (answers == data.validation.labels % 2).double().mean()
        assert judged[index].scores["top1"] == pytest.approx(100 * right.item())
        torch.testing.assert_close(losses[index], loss)
        (recounted,) = trial.recount([state_dicts[index]], [code])
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            network(data.inputs(TRANSFORMATIONS.images(data.train.images[:150], code, WHITE), trial.params.resolution))
        first = next(name for name in recounted if name.endswith("running_mean"))
        # The mean over all training images is near that over the first 150.
        torch.testing.assert_close(recounted[first], network.state_dict()[first], rtol=0.2, atol=0.1)
