"""Builds, trains and scores small MLPs on two moons."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from rpg.tasks.moons.config import MoonsTask, MoonsZoo
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional

from rpg.tasks.base import Judgement, Save, Task
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict
from rpg.utils.errors import Diverged
from rpg.utils.rng import derive

SPLITS = ("train", "validation", "test")


class Moons(Task):
    """Two classes of points [n, 2]."""

    metrics = ("top1",)

    def __init__(self, config: MoonsTask) -> None:
        self.config = config

    def build(self) -> nn.Module:
        """A new network with weights from torch's global generator."""
        return nn.Sequential(nn.Linear(2, self.config.hidden), nn.ReLU(), nn.Linear(self.config.hidden, 2))

    def points(self, split: str) -> tuple[Tensor, Tensor]:
        """Points [n, 2] float32 and labels [n] int64 of a split, always the same."""
        seed = derive("moons", SPLITS.index(split)) % 2**32
        points, labels = make_moons(self.config.points, noise=self.config.noise, random_state=seed)
        return torch.from_numpy(points).float(), torch.from_numpy(labels)

    @cached_property
    def network(self) -> nn.Module:
        # Building one must not move the generator that a training draws from.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self.build().eval()

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        with torch.device("meta"):
            return self.build().state_dict()

    def check(self) -> None:
        """Nothing can be missing: the data are generated."""

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        raise NotImplementedError("a benchmark without base networks")

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        assert isinstance(zoo, MoonsZoo)
        (run,) = runs
        torch.manual_seed(derive("zoo", "weights", run.seed))
        network, (points, labels) = self.build(), self.points("train")
        optimizer = torch.optim.Adam(network.parameters(), zoo.learning_rate)
        for step in range(1, zoo.steps + zoo.saves * zoo.save_every + 1):
            loss = functional.cross_entropy(network(points), labels)
            if not torch.isfinite(loss):
                raise Diverged(f"zoo: seed {run.seed} diverged at step {step}; lower its learning_rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step > zoo.steps and (step - zoo.steps) % zoo.save_every == 0:
                save(step, [{name: tensor.detach().clone() for name, tensor in network.state_dict().items()}])

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        self.network.load_state_dict(state_dict)
        points, labels = self.points(split)
        with torch.inference_mode():
            answers = self.network(points).argmax(1)
        return Judgement({self.metric: 100 * float((answers == labels).double().mean())}, answers)

    def targets(self, split: str, code: str | None = None) -> Tensor:
        return self.points(split)[1]
