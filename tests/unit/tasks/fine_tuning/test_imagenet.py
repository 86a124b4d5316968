"""ImageNet's two layouts, in miniature: three classes of images of one colour."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from miniatures import CLASSES, jpeg, write_folders

from rpg.data.pictures import SHUFFLED_GROUPS, ParquetPictures
from rpg.tasks.fine_tuning.pictures import load_pictures
from rpg.utils.errors import UserError


def write_parquet(folder: Path, train: int = 24, val: int = 6, rows: int = 2) -> None:
    """The Hugging Face layout, `rows` images in each group of rows, two files of training images."""
    (folder / "data").mkdir(parents=True)
    for part, count, files in (("train", train, 2), ("validation", val, 1)):
        for number in range(files):
            labels = [index % 3 for index in range(number, count, files)]
            images = [{"bytes": jpeg(label), "path": None} for label in labels]
            table = pa.table({"image": images, "label": labels})
            path = folder / "data" / f"{part}-{number:05d}-of-{files:05d}.parquet"
            pyarrow.parquet.write_table(table, path, row_group_size=rows)


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch) -> Path:
    """The folder imagenet/ below RPG_DATA, empty."""
    monkeypatch.setenv("RPG_DATA", str(tmp_path))
    (tmp_path / "imagenet").mkdir()
    return tmp_path / "imagenet"


@pytest.mark.parametrize("write", [write_folders, write_parquet])
def test_images_keep_their_labels_and_splits_are_even(imagenet: Path, write) -> None:
    write(imagenet)
    data = load_pictures("imagenet", None, 6)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [18, 6, 6]
    assert len(data.classes) == 3
    for part in (data.train, data.validation, data.test):
        assert part.labels.bincount().tolist() == [len(part) // 3] * 3
        for index in range(len(part)):
            pixel = np.asarray(part[index])[10, 10].astype(int)
            assert pixel.argmax() == part.labels[index]
            assert part[index].size == (30, 20)
    again = load_pictures("imagenet", None, 6)
    assert torch.equal(again.validation.labels, data.validation.labels)


@pytest.mark.parametrize("write", [write_folders, write_parquet])
def test_order_is_random_and_of_every_training_image_once(imagenet: Path, write) -> None:
    write(imagenet)
    train = load_pictures("imagenet", None, 6).train
    first, second = (train.order(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(18))
    assert first.tolist() != second.tolist()


def test_a_few_groups_of_a_parquet_file_are_read_at_a_time(imagenet: Path) -> None:
    write_parquet(imagenet, train=6 * 2 * SHUFFLED_GROUPS)
    pictures = ParquetPictures(sorted(imagenet.glob("data/train-*.parquet")))
    assert len(pictures.groups) == 6 * SHUFFLED_GROUPS
    for rows in pictures.order(torch.Generator().manual_seed(0)).split(2 * SHUFFLED_GROUPS):
        assert len({int(row) // 2 for row in rows}) == SHUFFLED_GROUPS


def test_faults_are_one_line(imagenet: Path) -> None:
    with pytest.raises(UserError, match="neither train/ and val/, with a folder for each class, nor train-"):
        load_pictures("imagenet", None, 6)
    write_folders(imagenet)
    with pytest.raises(UserError, match=r"task.validation: 2 can't be held out"):
        load_pictures("imagenet", None, 2)
    broken = imagenet / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"n01443537_0.JPEG: not an image that can be read"):
        load_pictures("imagenet", None, 6).test[2]
    # As the archive of the validation images unpacks.
    for file in list(imagenet.glob("val/*/*.JPEG")):
        file.rename(imagenet / "val" / file.name)
    with pytest.raises(UserError, match=r"val: must hold a folder of images for each class"):
        load_pictures("imagenet", None, 6)


def test_damaged_rows_of_a_parquet_file_are_told(imagenet: Path) -> None:
    write_parquet(imagenet)
    path = imagenet / "data" / "validation-00000-of-00001.parquet"
    test = load_pictures("imagenet", None, 6).test
    with pyarrow.parquet.ParquetFile(path) as opened:
        column = opened.metadata.row_group(2).column(0)
    content = bytearray(path.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(content)
    assert test[0].size == (30, 20)
    with pytest.raises(UserError, match=r"validation-00000-of-00001.parquet: row group 2 cannot be read"):
        test[5]


def test_classes_that_differ_between_the_parts_are_told(imagenet: Path) -> None:
    write_folders(imagenet)
    (imagenet / "val" / CLASSES[2]).rename(imagenet / "val" / "n99")
    with pytest.raises(UserError, match=r"one of them has no n01484850/"):
        load_pictures("imagenet", None, 6)


def test_parquet_files_that_are_missing_or_of_other_columns_are_told(imagenet: Path) -> None:
    write_parquet(imagenet)
    last = imagenet / "data" / "train-00001-of-00002.parquet"
    last.unlink()
    with pytest.raises(UserError, match=r"has 1 of 2 train-\*.parquet"):
        load_pictures("imagenet", None, 6)
    pd.DataFrame({"label": [0, 1, 2]}).to_parquet(last)
    with pytest.raises(UserError, match=r"train-00001-of-00002.parquet: no images and labels in parquet"):
        load_pictures("imagenet", None, 6)
    labels = pa.table({"image": [{"bytes": jpeg(0), "path": None}] * 2, "label": [0, None]})
    pyarrow.parquet.write_table(labels, last)
    with pytest.raises(UserError, match=r"train-00001-of-00002.parquet: no images and labels in parquet"):
        load_pictures("imagenet", None, 6)
    last.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"train-00001-of-00002.parquet: no images and labels in parquet"):
        load_pictures("imagenet", None, 6)
