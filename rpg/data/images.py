"""The common form of image data sets: three fixed splits of labeled images."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
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
    # The standard deviation and the mean [1, C, 1, 1] of pixels, if they are those of other training images.
    pixels: tuple[Tensor, Tensor] | None = None

    def split(self, name: str) -> Split:
        """Return the split called 'train', 'validation' or 'test'."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def of_classes(self, chosen: Collection[int]) -> "Images":
        """Return the images of the classes with these indices; labels stay the same."""

        def kept(split: Split) -> Split:
            mask = torch.isin(split.labels, torch.tensor(sorted(chosen)))
            return Split(split.images[mask], split.labels[mask])

        return replace(self, train=kept(self.train), validation=kept(self.validation), test=kept(self.test))

    @cached_property
    def train_std_mean(self) -> tuple[Tensor, Tensor]:
        """The standard deviation and the mean [1, C, 1, 1] of the training images' pixels."""
        if self.pixels:
            return self.pixels
        return torch.std_mean(self.train.images.double(), dim=(0, 2, 3), keepdim=True)

    def inputs(self, images: Tensor, resolution: int) -> Tensor:
        """Convert images [n, C, H, W] uint8 to network inputs [n, C, resolution, resolution] float32.

        The inputs have mean 0 and standard deviation 1 per channel over the train split.
        """
        std, mean = self.train_std_mean
        return standardized(images, mean, std, resolution)


def standardized(images: Tensor, mean: Tensor, std: Tensor, resolution: int) -> Tensor:
    """Return (images - mean) / std, float32, resized to [n, C, resolution, resolution].

    `mean` and `std` [1, C, 1, 1] are those of pixels.
    """
    normal = ((images - mean.to(images.device)) / std.to(images.device)).float()
    if normal.shape[2:] == (resolution, resolution):
        return normal
    return functional.interpolate(normal, (resolution, resolution), mode="bilinear", antialias=True)


def load_splits(file: Path, classes: tuple[str, ...]) -> Images:
    """Load a data set of the tensors that `split_tensors` returns."""
    tensors = load_file(file)
    train, validation, test = (
        Split(tensors[f"{name}.images"], tensors[f"{name}.labels"].long()) for name in ("train", "validation", "test")
    )
    return Images(train, validation, test, classes)


def split_tensors(every: Split, test: int, validation: int) -> dict[str, Tensor]:
    """Return images and labels, uint8, of each split by its name: `test` and `validation` images, and the others."""
    rest, held = hold_out(every, test, seed=0)
    train, chosen = hold_out(rest, validation, seed=0)
    tensors: dict[str, Tensor] = {}
    for name, split in {"train": train, "validation": chosen, "test": held}.items():
        tensors |= {f"{name}.images": split.images, f"{name}.labels": split.labels.to(torch.uint8)}
    return tensors


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
