"""The two functions that RPG needs of your own zoo: one builds the network, the other scores it."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

# Where each part of the 1797 shuffled images of scikit-learn's digits begins and ends.
PARTS = {"train": (0, 1197), "validation": (1197, 1297), "test": (1297, 1797)}


def build() -> nn.Module:
    """The network that the checkpoints belong to; its own weights mean nothing."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def score(network: nn.Module, split: str) -> tuple[Tensor, Tensor]:
    """What the network takes the images of `split`, validation or test, for, and what they are, both [n]."""
    images, labels = digits(split)
    return network(images.to(next(network.parameters()))).argmax(1), labels


def digits(part: str) -> tuple[Tensor, Tensor]:
    """Images [n, 1, 8, 8] from 0 to 1 and labels [n] of one part."""
    data = load_digits()
    first, end = PARTS[part]
    chosen = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))[first:end]
    return torch.tensor(data.images[chosen.numpy()]).float().unsqueeze(1) / 16, torch.tensor(data.target)[chosen]
