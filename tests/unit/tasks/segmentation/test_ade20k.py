from pathlib import Path

import pytest

from rpg.tasks.segmentation.ade20k import check_ade20k
from rpg.utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        for part in ("training", "validation"):
            (root / kind / part).mkdir(parents=True)
            for name in ("one", "two"):
                (root / kind / part / f"{name}.{suffix}").touch()
    return root


def test_whole(folder: Path) -> None:
    check_ade20k(folder)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such data folder; unpack ADEChallengeData2016.zip"):
        check_ade20k(tmp_path / "ADEChallengeData2016")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("annotations/training/two.png", "annotations/training/two.png: missing, one of 1 in training"),
        ("images/validation/one.jpg", "images/validation/one.jpg: missing, one of 1 in validation"),
    ],
)
def test_image_without_its_label(folder: Path, gone: str, message: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(UserError, match=message):
        check_ade20k(folder)


def test_half_unpacked(folder: Path) -> None:
    for path in (folder / "annotations/validation").iterdir():
        path.unlink()
    (folder / "annotations/validation").rmdir()
    with pytest.raises(UserError, match="annotations/validation: no such data folder"):
        check_ade20k(folder)
    for kind in ("images", "annotations"):
        for path in (folder / kind / "training").iterdir():
            path.unlink()
    with pytest.raises(UserError, match=r"images/training: holds no \.jpg"):
        check_ade20k(folder)
