import json
from pathlib import Path

import pytest

from rpg.tasks.detection.coco import check_coco
from rpg.utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (root / part).mkdir()
        (root / part / "7.jpg").touch()
        tree = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": [{"id": 1, "image_id": 7}]}
        tree["categories"] = [{"id": 1, "name": "person"}]
        (root / f"annotations/instances_{part}.json").write_text(json.dumps(tree))
    return root


def test_whole(folder: Path) -> None:
    check_coco(folder)


def test_image_is_missing(folder: Path) -> None:
    (folder / "val2017/7.jpg").unlink()
    with pytest.raises(UserError, match=r"val2017/7.jpg: missing, one of 1 images; unpack val2017.zip again"):
        check_coco(folder)


def test_folder_is_missing(folder: Path) -> None:
    (folder / "train2017/7.jpg").unlink()
    (folder / "train2017").rmdir()
    with pytest.raises(UserError, match=r"train2017: no such data folder; unpack train2017.zip"):
        check_coco(folder)


def test_annotations_are_missing(folder: Path) -> None:
    (folder / "annotations/instances_val2017.json").unlink()
    with pytest.raises(UserError, match=r"instances_val2017.json: missing; unpack annotations_trainval2017.zip"):
        check_coco(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "not COCO's annotations"),
        ("[]", "not COCO's annotations"),
        ('{"images": []}', "not COCO's annotations"),
        ('{"images": [], "annotations": []}', "not COCO's annotations .'categories'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "a category has no name"),
        (
            '{"images": [{"id": 7, "file_name": "7.jpg"}], "categories": [],'
            ' "annotations": [{"id": 5, "image_id": 8}]}',
            "annotation 5 belongs to no listed image",
        ),
    ],
)
def test_annotations_are_broken(folder: Path, text: str, message: str) -> None:
    (folder / "annotations/instances_train2017.json").write_text(text)
    with pytest.raises(UserError, match=message):
        check_coco(folder)
