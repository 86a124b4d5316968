import torch
from conftest import MINIATURE

from rpg.params import ClassificationTask, Zoo
from rpg.tasks import load_task
from rpg.tasks.classification import _batches, _shift

TASK = ClassificationTask.model_validate(MINIATURE["task"])
ZOO = Zoo.model_validate(MINIATURE["zoo"])


def test_training_learns_and_saves_where_params_say() -> None:
    task = load_task(TASK, None)
    zoo = ZOO.model_copy(update={"steps": 300, "shift": 0})
    saves = list(task.train(zoo, seed=0))
    assert [step for step, _ in saves] == [302, 304]
    assert task.score(saves[-1][1], "train") > 60
    assert not torch.equal(saves[0][1]["fc.weight"], saves[1][1]["fc.weight"])


def test_seeds_differ_in_weights_and_repeat() -> None:
    task = load_task(TASK, None)
    first, again, other = (next(task.train(ZOO, seed))[1] for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_training_reads_the_train_split_alone() -> None:
    """Other pixels in validation and test change no weight."""
    task, blind = load_task(TASK, None), load_task(TASK, None)
    blind.data.validation.images.zero_()
    blind.data.test.images.zero_()
    a, b = next(task.train(ZOO, 0))[1], next(blind.train(ZOO, 0))[1]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_batches_see_each_image_once_per_epoch() -> None:
    batches = _batches(10, 3, torch.Generator().manual_seed(0))
    epochs = [torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_shift_moves_by_at_most_its_pixels_over_background() -> None:
    images = torch.zeros(500, 1, 5, 5)
    images[:, :, 2, 2] = 1
    shifted = _shift(images, 1, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    assert (shifted.sum((1, 2, 3)) == 1).all()
    counts = shifted.sum((0, 1))
    assert counts.sum() == 500
    assert (counts[1:4, 1:4] > 30).all()
    assert torch.equal(_shift(images, 0, torch.Generator()), images)
