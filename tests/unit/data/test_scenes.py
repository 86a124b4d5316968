import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from rpg.data import scenes
from rpg.data.scenes import Scene, compose, polygons, run_lengths, write_scenes
from rpg.tasks.detection.coco import check_coco
from rpg.tasks.segmentation.ade20k import check_ade20k


@pytest.fixture
def few(monkeypatch) -> None:
    """Few scenes: two of validation after twenty to train on, and ten to test on."""
    monkeypatch.setattr(scenes, "TRAIN", 20)
    monkeypatch.setattr(scenes, "VALIDATION", 2)
    monkeypatch.setattr(scenes, "TEST", 10)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scenes_are_their_number_s_alone() -> None:
    one, again, other = compose("train", 3), compose("train", 3), compose("train", 4)
    assert (one.image == again.image).all()
    assert (one.image != other.image).any()
    assert one.image.shape == (32, 32, 3)
    assert one.image.dtype == np.uint8


def test_what_lies_on_top_hides_what_lies_below() -> None:
    covered = 0
    for index in range(30):
        scene = compose("train", index)
        assert 1 <= len(scene.objects) <= 2
        together = np.sum([mask for _, mask in scene.objects], axis=0)
        assert together.max() == 1
        boxes = [(np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))) for _, mask in scene.objects]
        covered += any(
            a[0][0] < b[0][-1] and b[0][0] < a[0][-1] and a[1][0] < b[1][-1] and b[1][0] < a[1][-1]
            for k, a in enumerate(boxes)
            for b in boxes[:k]
        )
    assert covered >= 5


def test_ade20k_layout(few, tmp_path: Path) -> None:
    root = write_scenes("ade20k", tmp_path)
    assert root.name == "ADEChallengeData2016"
    check_ade20k(root)
    assert len(list((root / "images/training").iterdir())) == 22
    scene = compose("test", 6)
    image = Image.open(root / "images/validation/ADE_val_00000007.jpg")
    labels = np.asarray(Image.open(root / "annotations/validation/ADE_val_00000007.png"))
    assert image.format == "JPEG"
    # What JPEG loses.
    assert np.abs(np.asarray(image).astype(int) - scene.image).mean() < 8
    assert (labels[[0, -1]] == 0).all()
    for digit, mask in scene.objects:
        inside = mask[1:-1, 1:-1]
        assert (labels[1:-1, 1:-1][inside] == 2 + digit).all()


def test_coco_layout_is_read_by_pycocotools(few, tmp_path: Path) -> None:
    root = write_scenes("coco", tmp_path)
    check_coco(root)
    coco = COCO(root / "annotations/instances_train2017.json")
    crowds = 0
    for index in range(20):
        scene = compose("train", index)
        found = coco.loadAnns(coco.getAnnIds(imgIds=[index + 1]))
        assert len(found) == len(scene.objects)
        for entry, (digit, mask) in zip(found, scene.objects, strict=True):
            assert coco.loadCats(entry["category_id"])[0]["name"] == str(digit)
            decoded = coco.annToMask(entry).astype(bool)
            crowds += entry["iscrowd"]
            if entry["iscrowd"]:
                assert (decoded == mask).all()
            else:
                # A polygon runs through the middle of the pixels at the edge, and holes are filled.
                assert (decoded & mask).sum() / mask.sum() > 0.9
            assert entry["area"] == mask.sum()
    assert crowds == 2


def test_run_lengths_are_those_of_pycocotools() -> None:
    mask = np.random.default_rng(0).random((9, 7)) > 0.5
    for one in (mask, ~mask, np.ones((3, 4), bool)):
        compressed = rle.frPyObjects(run_lengths(one), *one.shape)
        assert (rle.decode(compressed).astype(bool) == one).all()


def test_polygon_of_a_square_and_of_two_parts() -> None:
    mask = np.zeros((8, 10), bool)
    mask[2:5, 3:7] = True
    (square,) = polygons(mask)
    x, y = square[::2], square[1::2]
    assert (min(x), max(x), min(y), max(y)) == (3.0, 7.0, 2.0, 5.0)
    mask[7, 9] = True
    assert len(polygons(mask)) == 2


@pytest.mark.parametrize("gone", ["train2017/000000000003.jpg", "annotations/instances_val2017.json"])
def test_same_bytes_twice_and_mended_where_a_file_is_gone(few, tmp_path: Path, gone: str) -> None:
    first, second = write_scenes("coco", tmp_path / "one"), write_scenes("coco", tmp_path / "two")
    assert files(first) == files(second)
    (second / gone).unlink()
    assert files(write_scenes("coco", tmp_path / "two")) == files(first)


def test_scenes_of_an_older_version_are_written_anew(few, tmp_path: Path) -> None:
    root = write_scenes("ade20k", tmp_path)
    before = files(root)
    (root / "scenes.json").write_text(json.dumps({"source": "of another file", "files": 64}))
    (root / "images/training/ADE_train_00000001.jpg").write_bytes(b"old")
    assert files(write_scenes("ade20k", tmp_path)) == before


def test_splits_have_digits_of_their_own(few, monkeypatch, tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def noted(split: str, index: int) -> Scene:
        asked.append((split, index))
        return compose(split, index)

    monkeypatch.setattr(scenes, "compose", noted)
    write_scenes("ade20k", tmp_path)
    assert asked == [
        *(("train", k) for k in range(20)), *(("validation", k) for k in range(2)), *(("test", k) for k in range(10))
    ]  # fmt: skip
