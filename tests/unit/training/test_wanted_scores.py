from pathlib import Path

import numpy as np
import pytest
import torch

from rpg.config.loading import load_params
from rpg.config.model import PermutationStateCondition, VectorCondition
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import Values, checkpoint_values
from rpg.training.wanted_scores import AskedStates, TrainingScores, inverse_increasing
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


STATE = PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0)


@pytest.fixture
def states(finished: Path) -> tuple[AskedStates, TokenStore, Values]:
    store = TokenStore(finished / "results/mini/tokens")
    return AskedStates(store, [1]), store, checkpoint_values([STATE, ACCURACY], store)


def test_exchanged_networks_have_a_random_state_and_vectors_of_any_checkpoint(
    states: tuple[AskedStates, TokenStore, Values],
) -> None:
    asked, store, values = states
    # All networks are of the first checkpoint, of state 0.
    picks = [0] * 600
    own = {name: of[picks] for name, of in values.items()}
    draw = torch.Generator().manual_seed(0)
    new, found = asked.exchange([STATE, ACCURACY], picks, own, values, 0.5, draw)
    assert picks == [0] * 600
    state_B = found["permutation_state"].argmax(1)
    assert [store.state(store.checkpoints[pick]) for pick in new] == state_B.tolist()
    # A half is exchanged, and half of that has state 0 again; state 1 has its own vectors only.
    assert state_B.bincount(minlength=3).tolist() == pytest.approx([450, 0, 150], abs=40)
    assert set(found["accuracy"].flatten().tolist()) == set(values["accuracy"].flatten().tolist())
    same, kept = asked.exchange([STATE, ACCURACY], picks, own, values, 0.0, draw)
    assert same == picks
    assert all(torch.equal(kept[name], own[name]) for name in own)


def test_some_state_must_be_asked(finished: Path) -> None:
    with pytest.raises(UserError, match=r"tune\.own_vectors: leaves no state"):
        AskedStates(TokenStore(finished / "results/mini/tokens"), [0, 1, 2])


def test_mixtures_are_of_asked_states(states: tuple[AskedStates, TokenStore, Values]) -> None:
    asked, _, values = states
    own = {name: of[[0] * 50] for name, of in values.items()}
    found = asked.mix(own, 40, torch.Generator().manual_seed(0))
    shares = found["permutation_state"]
    torch.testing.assert_close(shares.sum(1), torch.ones(50))
    assert not shares[:, 1].any()
    mixed = shares[:, 2] > 0
    assert 10 < int(mixed[:40].sum()) < 30
    assert not mixed[40:].any()
    assert found["accuracy"] is own["accuracy"]
