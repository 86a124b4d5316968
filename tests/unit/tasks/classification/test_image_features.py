from pathlib import Path

import pytest
import torch
from torch.nn import functional

from rpg.config.loading import load_params
from rpg.paths import paths_of
from rpg.tasks.classification.image_features import ImageFeatures
from rpg.tasks.classification.task import Classification
from rpg.tasks.loading import load_task
from rpg.zoo.manifest import read_base


@pytest.fixture
def found(shown: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Classification, ImageFeatures]:
    monkeypatch.chdir(shown)
    experiment = load_params().experiment("shown")
    task = load_task(experiment.task, None)
    base = read_base(experiment, paths_of(load_params(), "shown").folder("base"), 0)
    return task, task.image_features(base)


def test_features_are_outputs_before_the_head_and_probabilities(found: tuple[Classification, ImageFeatures]) -> None:
    task, features = found
    made = features(task.data.test.images[:7])
    assert made.shape == (7, 18)
    with torch.inference_mode():
        before = features.network.forward_features(task.inputs("test")[:7]).mean((2, 3))
        outputs = features.network(task.inputs("test")[:7])
    torch.testing.assert_close(made[:, :8], before)
    torch.testing.assert_close(made[:, 8:], functional.softmax(outputs, 1))
    torch.testing.assert_close(made[:, 8:].sum(1), torch.ones(7))
    assert (features.shape, features.white) == ((1, 8, 8), 16)


def test_they_know_more_than_chance(found: tuple[Classification, ImageFeatures]) -> None:
    task, features = found
    right = features(task.data.test.images)[:, 8:].argmax(1) == task.data.test.labels
    assert float(right.double().mean()) > 0.25


def test_tensors_hold_all_that_is_needed(found: tuple[Classification, ImageFeatures]) -> None:
    task, features = found
    again = ImageFeatures.of_tensors(Classification(task.params, None), features.tensors())
    images = task.data.test.images[:5]
    assert torch.equal(again(images), features(images))
    assert (again.shape, again.white) == (features.shape, features.white)
    assert {name.split(".")[0] for name in features.tensors()} == {"base", "pixels"}
