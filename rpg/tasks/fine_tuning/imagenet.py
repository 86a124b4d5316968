"""Load ImageNet-1K from class folders or from the Hugging Face layout.

Class folders: train/<class>/*.JPEG and val/<class>/*.JPEG. Hugging Face: train-*.parquet and validation-*.parquet, in
the folder or in its data/, with columns `image` {bytes, path} and `label`.
"""

from pathlib import Path

from rpg.data.pictures import FilePictures, ParquetPictures, Pictures, PictureSets, hold_out
from rpg.utils.errors import UserError

LAYOUTS = "neither train/ and val/, with a folder for each class, nor train-*.parquet and validation-*.parquet"


def load_imagenet(folder: Path, validation: int) -> PictureSets:
    """Load the data set in `folder`; its own validation split becomes `test`.

    The validation split is `validation` training images. Raises UserError if the folder has neither layout, or if the
    two parts have different classes.
    """
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        (train, classes), (test, test_classes) = (_class_folders(folder / part) for part in ("train", "val"))
        if test_classes != classes:
            other = sorted(set(classes) ^ set(test_classes))[0]
            raise UserError(f"{folder}: train/ and val/ have different classes; one of them has no {other}/")
    else:
        train, test = (_parquet(folder, part) for part in ("train", "validation"))
        numbers = sorted(set(train.labels.tolist()))
        if numbers != list(range(len(numbers))) or not set(test.labels.tolist()) <= set(numbers):
            raise UserError(
                f"{folder}: labels must be 0, 1, 2, ... and the same in both parts; download the files again"
            )
        classes = tuple(map(str, numbers))
    learned, validated = hold_out(train, validation, seed=0)
    return PictureSets(learned, validated, test, classes)


def _class_folders(folder: Path) -> tuple[Pictures, tuple[str, ...]]:
    from torchvision.datasets import ImageFolder

    try:
        images = ImageFolder(str(folder))
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{folder}: must hold a folder of images for each class ({message})") from error
    return FilePictures([Path(file) for file, _ in images.samples], images.targets), tuple(images.classes)


def _parquet(folder: Path, part: str) -> Pictures:
    files = sorted([*folder.glob(f"{part}-*.parquet"), *folder.glob(f"data/{part}-*.parquet")])
    if not files:
        raise UserError(f"{folder}: {LAYOUTS}")
    # A file's name includes the number of files: train-00000-of-00294.parquet.
    expected = files[0].stem.rpartition("-of-")[2]
    if expected.isdigit() and int(expected) != len(files):
        raise UserError(f"{folder}: has {len(files)} of {int(expected)} {part}-*.parquet; download the others")
    return ParquetPictures(files)
