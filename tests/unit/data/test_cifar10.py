"""The reader against a miniature in the real layout, and against the real files where RPG_DATA has them."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image

from rpg.data import load_data
from rpg.tasks.fine_tuning.pictures import load_pictures
from rpg.utils.errors import UserError


def png(pixels: np.ndarray) -> dict[str, object]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RPG_DATA with 2 × 50 training and 20 test images; pixel (0, 0) holds the label."""
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    draw = np.random.default_rng(0)
    (tmp_path / "cifar10").mkdir()
    for name, count in [("train-00000-of-00002", 50), ("train-00001-of-00002", 50), ("test-00000-of-00001", 20)]:
        labels = np.arange(count) % 10
        images = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        images[:, 0, 0, 1] = labels
        table = pd.DataFrame({"img": [png(image) for image in images], "label": labels})
        table.to_parquet(tmp_path / f"cifar10/{name}.parquet")
    return tmp_path


def test_images_are_read_one_by_one_too(root: Path) -> None:
    data, whole = load_pictures("cifar10", None, 10), load_data("cifar10", None)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [90, 10, 20]
    for index in range(20):
        pixels = np.asarray(data.test[index])
        assert pixels[0, 0, 1] == data.test.labels[index]
        assert np.array_equal(pixels, whole.test.images[index].permute(1, 2, 0).numpy())


def test_images_keep_their_labels_and_a_tenth_is_validation(root: Path) -> None:
    data = load_data("cifar10", None)
    assert [len(split.labels) for split in (data.train, data.validation, data.test)] == [90, 10, 20]
    for split in (data.train, data.validation, data.test):
        assert split.images.shape[1:] == (3, 32, 32)
        assert torch.equal(split.images[:, 1, 0, 0].long(), split.labels)
    assert sorted(data.validation.labels.tolist()) == list(range(10))


def test_variable_goes_before_params(root: Path, tmp_path: Path) -> None:
    assert len(load_data("cifar10", str(tmp_path / "elsewhere")).test.labels) == 20


def test_broken_file_is_named(root: Path) -> None:
    path = root / "cifar10/train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet: not CIFAR-10"):
        load_data("cifar10", None)


def test_other_columns_are_named(root: Path) -> None:
    pd.DataFrame({"image": [1], "label": [0]}).to_parquet(root / "cifar10/test-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"test-00000-of-00001\.parquet: not CIFAR-10"):
        load_data("cifar10", None)


REAL = Path(os.environ.get("RPG_DATA") or ROOT.parent / "shared/data")


@pytest.mark.long
def test_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of the published data set; without the files there is nothing to read, and the refusal must say so."""
    monkeypatch.setenv("RPG_DATA", str(REAL))
    if not (REAL / "cifar10").is_dir():
        with pytest.raises(UserError, match="no such data folder"):
            load_data("cifar10", None)
        return
    data = load_data("cifar10", None)
    assert [len(split.labels) for split in (data.train, data.validation, data.test)] == [45000, 5000, 10000]
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
