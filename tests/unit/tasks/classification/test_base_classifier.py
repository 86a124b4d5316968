"""What a base network can do for a task without the zoo, against plain torch and scikit-learn."""

import numpy as np
import pytest
import torch
from conftest import TASKS
from sklearn.linear_model import LogisticRegression
from torch import nn

from rpg.tasks.classification.base_classifier import BaseClassifier
from rpg.tasks.classification.config import ClassificationBase, TaskCodes
from rpg.tasks.classification.task import Classification
from rpg.tasks.loading import load_task

CODES = ["0101010101", "0011111111"]


@pytest.fixture(scope="module")
def task() -> Classification:
    return load_task(TaskCodes.model_validate(TASKS["task"]), None)


@pytest.fixture(scope="module")
def base(task: Classification) -> BaseClassifier:
    """A base network of 200 steps."""
    params = ClassificationBase.model_validate({**TASKS["base"], "steps": 200})
    return task.base_network(task.train_base(params, 5))


def plain_network(task: Classification, base: BaseClassifier) -> nn.Module:
    network = task.build(num_classes=10).eval()
    network.load_state_dict(base.state_dict)
    return network


def images_of(task: Classification, split: str) -> torch.Tensor:
    train = task.data.train.images.float()
    return (task.data.split(split).images.float() - train.mean()) / train.std()


def share_of_yes(task: Classification, split: str, code: str) -> float:
    return np.mean([code[label] == "1" for label in task.data.split(split).labels.tolist()]).item()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_looked_up_answers_are_the_bits_of_the_likeliest_classes(
    task: Classification, base: BaseClassifier, split: str, code: str
) -> None:
    with torch.no_grad():
        classes = plain_network(task, base)(images_of(task, split)).argmax(1).tolist()
    judged = base.look_up(split, code)
    assert judged.answers.tolist() == [int(code[index]) for index in classes]
    labels = task.data.split(split).labels.tolist()
    right = [code[one] == code[label] for one, label in zip(classes, labels, strict=True)]
    assert judged.scores["top1"] == pytest.approx(100 * np.mean(right))
    # The majority class has the share of the more frequent answer.
    yes = share_of_yes(task, split, code)
    assert judged.scores["top1"] > 100 * max(yes, 1 - yes)


@pytest.mark.parametrize("code", CODES)
def test_a_probe_is_the_base_with_the_head_of_a_logistic_regression(
    task: Classification, base: BaseClassifier, code: str
) -> None:
    probe = base.probe(code)
    assert probe.keys() == base.state_dict.keys() == task.network.state_dict().keys()
    changed = {name for name, tensor in probe.items() if not torch.equal(tensor, base.state_dict[name])}
    assert changed == {"fc.weight", "fc.bias"}
    # The features are the head's inputs.
    network, inputs = plain_network(task, base), []
    network.fc.register_forward_hook(lambda _module, given, _result: inputs.append(given[0]))
    with torch.no_grad():
        for split in ("train", "test"):
            network(images_of(task, split))
    train, test = (features.double().numpy() for features in inputs)
    labels = [int(code[label]) for label in task.data.train.labels.tolist()]
    predicted = LogisticRegression(max_iter=2000).fit(train, labels).predict(test)
    judged = task.judge(probe, "test", code)
    assert np.mean(judged.answers.numpy() == predicted) > 0.997
    yes = share_of_yes(task, "test", code)
    assert judged.scores["top1"] > 100 * max(yes, 1 - yes)


def test_a_probe_s_outputs_are_zero_and_the_logit(task: Classification, base: BaseClassifier) -> None:
    probe = base.probe(CODES[0])
    assert probe["fc.weight"].shape == (2, 8)
    assert not probe["fc.weight"][0].any()
    assert probe["fc.bias"][0] == 0
    with torch.no_grad():
        task.network.load_state_dict(probe)
        outputs = task.network(task.inputs("validation"))
    assert not outputs[:, 0].any()
    assert torch.equal((outputs[:, 1] > 0).long(), task.judge(probe, "validation", CODES[0]).answers)


def test_a_probe_reads_the_train_split_alone(task: Classification, base: BaseClassifier) -> None:
    """Other pixels and labels in validation and test change no weight."""
    blind = load_task(TaskCodes.model_validate(TASKS["task"]), None)
    for split in (blind.data.validation, blind.data.test):
        split.images.zero_()
        split.labels.zero_()
    found, again = base.probe(CODES[1]), blind.base_network(base.state_dict).probe(CODES[1])
    assert all(torch.equal(found[name], again[name]) for name in found)
