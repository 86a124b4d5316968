"""The common form of image data sets: three fixed splits of labeled images."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Split:
    """Labeled images: `images` [n, C, H, W] uint8, `labels` [n] int64."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8
        assert self.images.ndim == 4
        assert self.labels.shape == self.images.shape[:1]


@dataclass(frozen=True)
class Images:
    """A data set for classification.

    Networks train on `train`. Choices are made on `validation`. Only measurements read `test`; no training and no
    choice reads it.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    def split(self, name: str) -> Split:
        """Return the split called 'train', 'validation' or 'test'."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @cached_property
    def _train_std_mean(self) -> tuple[Tensor, Tensor]:
        return torch.std_mean(self.train.images.double(), dim=(0, 2, 3), keepdim=True)

    def inputs(self, images: Tensor, resolution: int) -> Tensor:
        """Convert images [n, C, H, W] uint8 to network inputs [n, C, resolution, resolution] float32.

        The inputs have mean 0 and standard deviation 1 per channel over the train split.
        """
        std, mean = self._train_std_mean
        normal = ((images - mean.to(images.device)) / std.to(images.device)).float()
        if normal.shape[2:] == (resolution, resolution):
            return normal
        return functional.interpolate(normal, (resolution, resolution), mode="bilinear", antialias=True)


def hold_out(split: Split, count: int, seed: int) -> tuple[Split, Split]:
    """Return `split` without `count` images, and the split of those images, drawn evenly over the classes.

    The same seed draws the same images.
    """
    kept, held = drawn_evenly(split.labels, count, seed)
    return Split(split.images[kept], split.labels[kept]), Split(split.images[held], split.labels[held])


def drawn_evenly(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of all but `count` labels, and of these `count`, drawn evenly over the classes.

    Raises ValueError if there are too few labels.
    """
    from sklearn.model_selection import train_test_split

    parts = train_test_split(range(len(labels)), test_size=count, random_state=seed, stratify=labels.numpy())
    kept, held = (torch.tensor(sorted(part)) for part in parts)
    return kept, held
