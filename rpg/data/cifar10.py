"""CIFAR-10 in the Hugging Face layout: train-*.parquet and test-*.parquet, columns `img` {bytes} and `label`."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, UnidentifiedImageError

from rpg.data.images import Images, Split, hold_out
from rpg.errors import UserError

VALIDATION_SHARE = 0.1
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_cifar10(folder: Path) -> Images:
    """Images [n, 3, 32, 32]; a tenth of the training files, drawn evenly over the classes, is the validation split."""
    train = _read(folder, "train")
    train, validation = hold_out(train, round(len(train.labels) * VALIDATION_SHARE), seed=0)
    return Images(train, validation, _read(folder, "test"), CLASSES)


def _read(folder: Path, split: str) -> Split:
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"{folder}: no {split}-*.parquet; the Hugging Face layout of CIFAR-10 is expected there")
    images, labels = [], []
    for file in files:
        try:
            table = pd.read_parquet(file, columns=["img", "label"])
            images += [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["img"]]
            labels.append(table["label"].to_numpy())
        except (OSError, ValueError, KeyError, TypeError, UnidentifiedImageError) as error:
            raise UserError(f"{file}: not CIFAR-10 in parquet ({' '.join(str(error).split())})") from error
    pixels_NHWC = torch.from_numpy(np.stack(images))
    return Split(pixels_NHWC.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.concatenate(labels)).long())
