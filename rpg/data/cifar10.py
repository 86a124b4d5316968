"""CIFAR-10 in the Hugging Face layout: train-*.parquet and test-*.parquet, columns `img` {bytes} and `label`."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError

from rpg.data import CLASSES
from rpg.data.images import Images, Split, hold_out
from rpg.data.pictures import MemoryPictures, PictureSets
from rpg.data.pictures import hold_out as hold_out_pictures
from rpg.utils.errors import UserError

VALIDATION_SHARE = 0.1
NAMES = CLASSES["cifar10"]


def load_cifar10(folder: Path) -> Images:
    """Load images [n, 3, 32, 32].

    The validation split is a tenth of the training files, drawn evenly over the classes. Raises UserError if the files
    are missing or broken.
    """
    train = _read(folder, "train")
    train, validation = hold_out(train, round(len(train.labels) * VALIDATION_SHARE), seed=0)
    return Images(train, validation, _read(folder, "test"), NAMES)


def load_cifar10_pictures(folder: Path, validation: int) -> PictureSets:
    """Load the same images one by one.

    The validation split is `validation` images of the training files, drawn evenly over the classes.
    """
    train, held = hold_out_pictures(MemoryPictures(_read(folder, "train")), validation, seed=0)
    return PictureSets(train, held, MemoryPictures(_read(folder, "test")), NAMES)


def _read(folder: Path, split: str) -> Split:
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"{folder}: no {split}-*.parquet; download CIFAR-10 in the Hugging Face layout to this folder")
    images, labels = [], []
    for file in files:
        try:
            table = pd.read_parquet(file, columns=["img", "label"])
            images += [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["img"]]
            labels += table["label"].tolist()
            if any(label not in range(len(NAMES)) for label in labels):
                raise ValueError("a label is not a whole number from 0 to 9")
            if any(image.shape != (32, 32, 3) for image in images):
                raise ValueError("an image is not 32 × 32 pixels")
        except (OSError, ValueError, KeyError, TypeError, UnidentifiedImageError) as error:
            raise UserError(f"{file}: not CIFAR-10 in parquet ({' '.join(str(error).split())})") from error
    if set(labels) != set(range(len(NAMES))):
        raise UserError(f"{folder}: the {split} files do not hold all ten classes; download the data set again")
    pixels_NHWC = torch.from_numpy(np.stack(images))
    return Split(pixels_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64))
