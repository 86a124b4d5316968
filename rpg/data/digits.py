"""scikit-learn's handwritten digits: 1797 real 8×8 grey images (UCI optical recognition of handwritten digits)."""

import torch

from rpg.data import CLASSES
from rpg.data.images import Images, Split, hold_out

TEST, VALIDATION = 500, 200


def load_digits_images() -> Images:
    """1097 train, 200 validation and 500 test images [n, 1, 8, 8] with grey levels 0 to 16, always the same split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    rest, test = hold_out(Split(images, torch.from_numpy(digits.target).long()), TEST, seed=0)
    train, validation = hold_out(rest, VALIDATION, seed=0)
    return Images(train, validation, test, CLASSES["digits"])
