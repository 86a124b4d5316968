"""Train the two runs of a case's zoo, with the networks and the data of the user's module."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

RUNS, SAVES = ("a", "b"), 3
# Steps of a training, and the distance of its saves, of which the last is at its end.
STEPS, EVERY, BATCH = 160, 8, 64


@dataclass
class Zoo:
    """A folder with zoo/<run>; `mine` holds the names of the module that trains the networks.

    `scores` collects the percentage of right answers of every saved network on the test split.
    """

    folder: Path
    mine: dict[str, Any]
    scores: list[float] = field(default_factory=list)

    def path(self, *parts: str) -> Path:
        """Return a path below zoo/, whose folder exists."""
        path = self.folder.joinpath("zoo", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def prepare(self) -> None:
        """Train the network below the adapters, if the module has one, and write base.pt."""
        if "plain" in self.mine:
            torch.manual_seed(100)
            base = self.mine["plain"]()
            for _ in steps(base, self.mine, "base", 150):
                pass
            torch.save(base.state_dict(), self.folder / "base.pt")

    def start(self, run: str) -> nn.Module:
        """Return the untrained network of a run, whose name gives its seed."""
        torch.manual_seed(ord(run))
        with contextlib.chdir(self.folder):
            network: nn.Module = self.mine["build"]()
        return network

    def saves(
        self, runs: Iterable[str] = RUNS, halfway: Callable[[nn.Module], Any] = lambda network: None
    ) -> Iterator[tuple[str, int, nn.Module]]:
        """Train each run; yield its name, the number of the save and the network, which is in evaluation mode.

        `halfway` changes the network after half of the steps.
        """
        for run in runs:
            network = self.start(run)
            for step in steps(network, self.mine, "train", STEPS):
                if step == STEPS // 2:
                    halfway(network)
                if save := save_after(step):
                    network.eval()
                    self.note(network)
                    yield run, save, network
                    network.train()

    def note(self, network: nn.Module) -> None:
        """Score a saved network."""
        with torch.no_grad():
            answers, targets = self.mine["score"](network, "test")
        self.scores.append(100 * float((answers == targets).double().mean()))


def save_after(step: int) -> int:
    """Return the number of the save after a step, from 1; 0 if there is none."""
    left, rest = divmod(STEPS - step, EVERY)
    return SAVES - left if left < SAVES and not rest else 0


def steps(network: nn.Module, mine: dict[str, Any], split: str, count: int) -> Iterator[int]:
    """Train a network for `count` steps with AdamW and a cosine learning rate; yield the number of steps so far."""
    inputs, targets = mine["points"](split)
    optimizer = torch.optim.AdamW([tensor for tensor in network.parameters() if tensor.requires_grad], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    network.train()
    for step in range(1, count + 1):
        batch = torch.randint(len(inputs), (BATCH,))
        loss = cross_entropy(mine["logits"](network, inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield step


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [..., classes] and targets [...]."""
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
