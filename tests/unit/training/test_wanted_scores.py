from pathlib import Path

import numpy as np
import pytest
import torch

from rpg.config.loading import load_params
from rpg.config.model import VectorCondition
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.wanted_scores import TrainingScores, inverse_increasing
from rpg.utils.errors import UserError

ACCURACY = VectorCondition(kind="vector", field="validation_top1", name="accuracy", hidden=None, reach="all")


def test_inverse_of_an_increasing_function_by_hand() -> None:
    # The outputs at 2 and 3 are in the wrong order; least squares gives both their mean, 35.
    wanted, needed = inverse_increasing([1.0, 2.0, 3.0, 4.0], [10.0, 40.0, 30.0, 50.0])
    assert wanted.tolist() == [10.0, 35.0, 50.0]
    assert needed.tolist() == [1.0, 2.5, 4.0]
    assert np.interp(22.5, wanted, needed) == pytest.approx(1.75)


def test_wanted_scores_become_scores_on_training_images(finished: Path) -> None:
    task = load_task(load_params(finished / "params.yaml").experiment("mini").task, None)
    store = TokenStore(finished / "results/mini/tokens")
    scores = TrainingScores(task, [ACCURACY], store)
    own = torch.tensor([[checkpoint.numbers("validation_top1")[0]] for checkpoint in store.checkpoints])
    trained = []
    for index, checkpoint in enumerate(store.checkpoints):
        weights = store.detokenize(store[index][None], torch.tensor([store.state(checkpoint)]))
        trained.append(task.score({name: tensor[0] for name, tensor in weights.items()}, "train"))
    found = scores({"accuracy": own})
    # The fit keeps the range and the mean of what it inverts.
    assert min(trained) <= found.min() <= found.max() <= max(trained)
    assert abs(float(found.mean()) - np.mean(trained)) < np.std(trained) + 1
    assert scores({"accuracy": torch.tensor([[0.0], [100.0]])}).diff() >= 0


def test_a_condition_must_ask_for_the_score(finished: Path) -> None:
    task = load_task(load_params(finished / "params.yaml").experiment("mini").task, None)
    step = VectorCondition(kind="vector", field="step", hidden=None, reach="all")
    with pytest.raises(UserError, match=r"tune\.loss: scores needs a condition .*field validation_top1"):
        TrainingScores(task, [step], TokenStore(finished / "results/mini/tokens"))
