import torch

from rpg.data import load_data
from rpg.data.mnist import load_mnist_images, reduced


def test_splits_have_no_image_in_common_and_all_classes() -> None:
    images = load_mnist_images()
    splits = images.train, images.validation, images.test
    assert [len(split.labels) for split in splits] == [2000, 500, 2500]
    for split in splits:
        assert split.images.shape[1:] == (1, 8, 8)
        assert split.labels.bincount().tolist() == [len(split.labels) // 10] * 10
        assert (int(split.images.min()), int(split.images.max())) == (0, 16)
    rows = torch.cat([split.images.flatten(1) for split in splits])
    # A few reduced images are equal; a shared split would make hundreds so.
    assert len(rows.unique(dim=0)) > 4990
    assert torch.equal(load_data("mnist", None).test.labels, images.test.labels)


def test_reduced_by_hand() -> None:
    image = torch.zeros(1, 28, 28)
    # The first of eight areas of 2.5 pixels each takes pixels 4 to 6, as torch rounds the areas outwards.
    image[0, 4:7, 4:7] = 255
    small = reduced(image)
    assert (small.shape, small.dtype) == ((1, 1, 8, 8), torch.uint8)
    assert int(small[0, 0, 0, 0]) == 16
    assert small[0, 0, 2:].unique().tolist() == [0]
    assert reduced(torch.full((1, 28, 28), 255.0)).unique().tolist() == [16]
    border = torch.full((1, 28, 28), 255.0)
    border[0, 4:-4, 4:-4] = 0
    assert reduced(border).unique().tolist() == [0]


def test_the_digits_look_like_those_of_scikit_learn() -> None:
    """The nearest class mean of scikit-learn's digits knows four in ten of MNIST's, which are written otherwise."""
    own, other = load_data("digits", None).train, load_mnist_images().test
    means = torch.stack([own.images[own.labels == digit].float().mean(0).flatten() for digit in range(10)])
    answers = torch.cdist(other.images.float().flatten(1), means).argmin(1)
    assert 0.3 < float((answers == other.labels).double().mean()) < 0.9
