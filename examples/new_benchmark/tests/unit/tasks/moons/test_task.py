"""Two moons: training, scoring and shapes."""

import torch
from rpg.tasks.moons.config import MoonsTask, MoonsZoo

from rpg.tasks.config import Run
from rpg.tasks.stack import StateDict

TASK = MoonsTask(kind="moons", points=400, noise=0.2, hidden=16)
ZOO = MoonsZoo(seeds=[0], runs_per_shard=1, steps=300, saves=2, save_every=5, learning_rate=0.02)


def trained(seed: int) -> list[StateDict]:
    saved: list[StateDict] = []
    runs = [Run(seed=seed, code=None, held_out=False)]
    TASK.load(None).train(ZOO, runs, [None], lambda step, states: saved.extend(states))
    return saved


def test_training_is_the_same_each_time_and_differs_by_seed() -> None:
    once, again, other = (trained(seed)[-1] for seed in (0, 0, 1))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["0.weight"], other["0.weight"])


def test_trained_networks_tell_the_moons_apart() -> None:
    first, last = trained(0)
    assert not torch.equal(first["0.weight"], last["0.weight"])
    judgement = TASK.load(None).judge(last, "test")
    assert judgement.scores["top1"] > 93
    assert judgement.answers.shape == (400,)


def test_skeleton_is_the_checkpoint_without_numbers() -> None:
    skeleton = TASK.load(None).skeleton(None)
    assert {name: tensor.shape for name, tensor in skeleton.items()} == {
        "0.weight": (16, 2), "0.bias": (16,), "2.weight": (2, 16), "2.bias": (2,)
    }  # fmt: skip
