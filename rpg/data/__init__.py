"""Data sets by name: `load_data(name, root)`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rpg.utils.errors import UserError

if TYPE_CHECKING:
    from rpg.data.images import Images

# Data set → its classes, without reading the data set.
CLASSES = {
    "digits": tuple(map(str, range(10))),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}

# Data set → width and height of its images in pixels.
SIDES = {"digits": 8, "cifar10": 32}
# Data set → its name in a sentence.
TITLES = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}
# Data sets that come with a package or that the project generates. All others need a folder.
BUILT_IN = ("digits", "scenes", "facts", "fact_tasks")
# Data set → its folder's name, if that differs from the data set's name.
FOLDERS = {"ade20k": "ADEChallengeData2016"}


def load_data(name: str, data_root: str | None) -> "Images":
    """Return the data set `name`.

    The folder of a data set lies below RPG_DATA, or else below `data_root`.
    """
    if name == "digits":
        from rpg.data.digits import load_digits_images

        return load_digits_images()
    if name == "mnist":
        from rpg.data.mnist import load_mnist_images

        return load_mnist_images()
    from rpg.data.cifar10 import load_cifar10

    return load_cifar10(data_folder(name, data_root))


def data_folder(name: str, data_root: str | None) -> Path:
    """Return the folder of data set `name`, below RPG_DATA or else `data_root`; UserError if it does not exist."""
    root = os.environ.get("RPG_DATA") or data_root
    if not root:
        raise UserError(f"data set '{name}': no data folder; set RPG_DATA, or data_root in params.yaml")
    folder = Path(root) / FOLDERS.get(name, name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder; put {name} there, or set RPG_DATA to the folder that holds it")
    return folder


def missing_data(name: str, data_root: str | None) -> list[str]:
    """Return one line if the folder of data set `name` is missing; otherwise no line."""
    if name in BUILT_IN:
        return []
    try:
        data_folder(name, data_root)
    except UserError as error:
        return [str(error)]
    return []
