import torch
from safetensors.torch import load_file

from rpg.data.digits import FILE, draw_digits, load_digits_images


def test_the_file_is_what_scikit_learn_has_and_draws() -> None:
    kept, drawn = load_file(FILE), draw_digits()
    assert kept.keys() == drawn.keys()
    for name, tensor in drawn.items():
        assert torch.equal(kept[name], tensor)
        assert kept[name].dtype == torch.uint8


def test_splits_are_fixed_disjoint_and_even() -> None:
    data, again = load_digits_images(), load_digits_images()
    splits = [data.train, data.validation, data.test]
    assert [len(split.labels) for split in splits] == [1097, 200, 500]
    assert all(
        torch.equal(a.images, b.images)
        for a, b in zip(splits, [again.train, again.validation, again.test], strict=True)
    )
    rows = {tuple(image.flatten().tolist()) for split in splits for image in split.images}
    assert len(rows) == 1797
    for split in splits:
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.max() - counts.min() <= 0.07 * len(split.labels) / 10 * 2
    assert data.train.images.max() == 16


def test_inputs_are_normal_on_the_train_split_and_resized() -> None:
    data = load_digits_images()
    train = data.inputs(data.train.images, 8)
    assert abs(train.mean().item()) < 1e-6
    assert abs(train.std().item() - 1) < 1e-6
    assert data.inputs(data.test.images, 16).shape == (500, 1, 16, 16)
    # The statistics are the train split's, whatever is normalised.
    one = data.inputs(data.test.images[:1], 8)
    torch.testing.assert_close(one, data.inputs(data.test.images, 8)[:1])
