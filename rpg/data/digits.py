"""scikit-learn's handwritten digits: 1797 real 8×8 gray images (UCI optical recognition of handwritten digits).

digits.safetensors in this folder holds the images in their splits. scikit-learn provides the images and draws the
splits, but its import takes as long as torch's, in every stage. `python -m rpg.data.digits` rewrites the file.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rpg.data import CLASSES
from rpg.data.images import Images, Split, load_splits, split_tensors

TEST, VALIDATION = 500, 200
FILE = Path(__file__).with_suffix(".safetensors")


def load_digits_images() -> Images:
    """Load 1097 train, 200 validation and 500 test images [n, 1, 8, 8], gray levels 0 to 16, in a fixed split."""
    return load_splits(FILE, CLASSES["digits"])


def draw_digits() -> dict[str, Tensor]:
    """Return the file's content from scikit-learn: images and labels, uint8, of each split by its name."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    return split_tensors(Split(images, torch.from_numpy(digits.target).long()), TEST, VALIDATION)


if __name__ == "__main__":
    save_file(draw_digits(), FILE)
