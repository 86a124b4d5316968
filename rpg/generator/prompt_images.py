"""A prompt of images: folders of pictures, or images and labels in Python, as images of the data set.

`--images FOLDER` has a folder of pictures for each answer: `no` and `yes`, or two folders of any names, of which the
first in alphabetical order is no.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from rpg.model.set_encoder import SIDES
from rpg.training.prompts import MOST
from rpg.utils.errors import UserError

ANSWERS = ("no", "yes")
EXAMPLE = "it needs two folders of pictures, no and yes"


@dataclass(frozen=True)
class ImageForm:
    """The form of a data set's images: `shape` (C, H, W), and `white`, the largest value of a pixel."""

    shape: tuple[int, int, int]
    white: int


@dataclass(frozen=True)
class ImagePrompt:
    """Images [n, C, H, W] uint8 of 0 to `white`, and their labels [n], 0 for no and 1 for yes."""

    images: Tensor
    labels: Tensor


def read_prompt(folder: Path, form: ImageForm, seed: int = 0) -> tuple[ImagePrompt, list[str]]:
    """Return the pictures in the folders of `folder`, and lines that say what was read.

    A picture becomes gray or RGB, as the data set is, and gets the data set's size. Of more than MOST pictures in a
    folder, MOST are drawn by `seed`. Raises UserError for a folder without two folders of pictures, and for a file that
    is no picture.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder; {EXAMPLE}")
    sides = sorted((path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=_name)
    if len(sides) != SIDES:
        found = ", ".join(path.name for path in sides) or "none"
        raise UserError(f"--images {folder}: has {len(sides)} folders ({found}); {EXAMPLE}")
    lines = []
    if tuple(map(_name, sides)) != ANSWERS:
        lines.append(f"output 0 (no) is {sides[0].name}, output 1 (yes) is {sides[1].name}")
    images, labels = [], []
    for label, side in enumerate(sides):
        files = sorted(path for path in side.iterdir() if path.is_file() and not path.name.startswith("."))
        if not files:
            raise UserError(f"--images {folder}: {side.name} has no pictures; {EXAMPLE}")
        if len(files) > MOST:
            lines.append(f"{side.name} has {len(files)} pictures; RPG takes {MOST} of them, drawn by the seed")
            files = random.Random(seed).sample(files, MOST)
        images += [read_picture(file, form) for file in files]
        labels += [label] * len(files)
    return ImagePrompt(torch.stack(images), torch.tensor(labels)), lines


def _name(path: Path) -> str:
    return path.name.lower()


def read_picture(file: Path | BinaryIO, form: ImageForm) -> Tensor:
    """Return a picture as an image [C, H, W] uint8; UserError with the file's name if Pillow can't read it."""
    from PIL import Image, ImageOps

    channels, height, width = form.shape
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (width, height))
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                # Pillow (12.0) cuts 16 bits off at 255 where it converts to 8.
                picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
            if picture.has_transparency_data:
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA"))
            picture = picture.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        name = file if isinstance(file, Path) else file.name
        raise UserError(f"{name}: not a picture that Pillow reads; remove it, or save it as PNG") from error
    pixels = np.asarray(picture, dtype=np.float32).reshape(height, width, channels)
    return torch.from_numpy((pixels * (form.white / 255)).round().astype(np.uint8)).permute(2, 0, 1)


def given_prompt(images: Any, labels: Sequence[Any] | None, form: ImageForm, seed: int = 0) -> ImagePrompt:
    """Return the prompt of `images` [n, C, H, W], or [n, H, W] if gray, and `labels` [n], each no (0) or yes (1).

    `images` is a tensor or an array. Values are 0 to the data set's `white`. Raises UserError for another shape or
    other values, and if one answer has no image.
    """
    wanted = f"[n, {', '.join(map(str, form.shape))}] of 0 to {form.white}"
    try:
        pixels = torch.as_tensor(np.asarray(images))
        answers = torch.as_tensor(np.asarray([] if labels is None else labels)).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"images: must be numbers, {wanted}, with labels 0 and 1") from error
    if pixels.ndim == 3 and form.shape[0] == 1:
        pixels = pixels.unsqueeze(1)
    if tuple(pixels.shape[1:]) != form.shape:
        raise UserError(f"images: must be {wanted}, not {list(pixels.shape)}")
    if pixels.is_complex() or not ((pixels >= 0) & (pixels <= form.white)).all():
        raise UserError(f"images: must be {wanted}, not {float(pixels.min()):g} to {float(pixels.max()):g}")
    if len(answers) != len(pixels):
        raise UserError(f"labels: must be {len(pixels)}, one for each image, not {len(answers)}")
    if {*answers.tolist()} != {0, 1}:
        raise UserError("labels: must be 0 for no and 1 for yes, with some images of each")
    answers = answers.long()
    draw = torch.Generator().manual_seed(seed)
    kept = [(answers == side).nonzero().flatten() for side in range(SIDES)]
    kept = [side[torch.randperm(len(side), generator=draw)[:MOST]] if len(side) > MOST else side for side in kept]
    chosen = torch.cat(kept)
    return ImagePrompt(pixels[chosen].round().to(torch.uint8), answers[chosen])
