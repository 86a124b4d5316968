"""Data sets too large for memory: labeled pictures that are read from their files one by one."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rpg.data.images import Split, drawn_evenly
from rpg.utils.errors import UserError

# Number of parquet row groups that are shuffled together in training. Each process keeps so many in memory.
SHUFFLED_GROUPS = 8


class Pictures(ABC):
    """Labeled pictures: `labels` [n] int64; `self[index]` is one RGB picture."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def __getitem__(self, index: int) -> Image.Image:
        """Return the picture; UserError with the file's name if it can't be read."""

    def order(self, draw: torch.Generator) -> Tensor:
        """Return [n] a random order to read all pictures once."""
        return torch.randperm(len(self), generator=draw)


@dataclass(frozen=True)
class PictureSets:
    """A data set for classification with the same three splits as `rpg.data.images.Images`."""

    train: Pictures
    validation: Pictures
    test: Pictures
    classes: tuple[str, ...]

    def split(self, name: str) -> Pictures:
        """Return the split called 'train', 'validation' or 'test'."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


class MemoryPictures(Pictures):
    """The pictures of a split in memory."""

    def __init__(self, split: Split) -> None:
        self.images, self.labels = split.images, split.labels

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].permute(1, 2, 0).numpy()).convert("RGB")


class FilePictures(Pictures):
    """Pictures in one file each."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int]) -> None:
        # One array stays shared between reading processes; a list of a million objects would be copied to each.
        self.files, self.labels = np.array([str(file) for file in files]), torch.tensor(labels, dtype=torch.int64)

    def __getitem__(self, index: int) -> Image.Image:
        file = Path(self.files[index])
        return _decoded(file, file)


class ParquetPictures(Pictures):
    """Rows of parquet files with a column `image` {bytes, path} and a column `label`.

    A read returns a whole row group, about a hundred pictures. So the random order shuffles the row groups, and then
    the pictures within each SHUFFLED_GROUPS of them.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the files; UserError if a file lacks these columns."""
        self.files, labels = list(files), []
        self.groups: list[tuple[int, int]] = []
        firsts = [0]
        for number, file in enumerate(self.files):
            try:
                with pyarrow.parquet.ParquetFile(file) as opened:
                    labels += opened.read(columns=["label"])["label"].to_pylist()
                    for group in range(opened.num_row_groups):
                        self.groups.append((number, group))
                        firsts.append(firsts[-1] + opened.metadata.row_group(group).num_rows)
                    if "image" not in opened.schema_arrow.names:
                        raise KeyError("no column 'image'")
                torch.tensor(labels, dtype=torch.int64)
            except (OSError, ValueError, KeyError, TypeError) as error:
                message = " ".join(str(error).split())
                raise UserError(f"{file}: no images and labels in parquet ({message}); download it again") from error
        self.firsts = torch.tensor(firsts)
        self.labels = torch.tensor(labels, dtype=torch.int64)

    def __getitem__(self, index: int) -> Image.Image:
        group = int(torch.searchsorted(self.firsts, index, right=True)) - 1
        number, group_in_file = self.groups[group]
        row = index - int(self.firsts[group])
        file = self.files[number]
        try:
            content = _rows(file, group_in_file)[row]["bytes"].as_py()
        except (OSError, ValueError, KeyError) as error:
            message = " ".join(str(error).split())
            raise UserError(
                f"{file}: row group {group_in_file} cannot be read ({message}); download it again"
            ) from error
        return _decoded(io.BytesIO(content), f"{file}: image {row} of group {group_in_file}")

    def order(self, draw: torch.Generator) -> Tensor:
        shuffled = []
        for groups in torch.randperm(len(self.groups), generator=draw).split(SHUFFLED_GROUPS):
            rows = torch.cat([torch.arange(*self.firsts[group : group + 2].tolist()) for group in groups.tolist()])
            shuffled.append(rows[torch.randperm(len(rows), generator=draw)])
        return torch.cat(shuffled)


@lru_cache(SHUFFLED_GROUPS)
def _rows(file: Path, group: int) -> pyarrow.ChunkedArray:
    with pyarrow.parquet.ParquetFile(file) as opened:
        return opened.read_row_group(group, columns=["image"])["image"]


class PicturesOf(Pictures):
    """A subset of the pictures of another set."""

    def __init__(self, pictures: Pictures, chosen: Tensor) -> None:
        self.pictures, self.chosen, self.labels = pictures, chosen, pictures.labels[chosen]
        self.places = torch.full((len(pictures),), -1)
        self.places[chosen] = torch.arange(len(chosen))

    def __getitem__(self, index: int) -> Image.Image:
        return self.pictures[int(self.chosen[index])]

    def order(self, draw: torch.Generator) -> Tensor:
        places = self.places[self.pictures.order(draw)]
        return places[places >= 0]


def hold_out(pictures: Pictures, count: int, seed: int) -> tuple[Pictures, Pictures]:
    """Return `pictures` without `count` of them, and the set of those `count`, drawn evenly over the classes.

    The same seed draws the same pictures. Raises UserError if there are too few.
    """
    try:
        kept, held = drawn_evenly(pictures.labels, count, seed)
    except ValueError as error:
        raise UserError(f"params.yaml: task.validation: {count} can't be held out ({error})") from error
    return PicturesOf(pictures, kept), PicturesOf(pictures, held)


def _decoded(file: Path | io.BytesIO, name: Path | str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise UserError(f"{name}: not an image that can be read ({' '.join(str(error).split())})") from error
