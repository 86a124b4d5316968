"""ImageNet-1K, as folders of classes or in the Hugging Face layout.

Folders: train/<class>/*.JPEG and val/<class>/*.JPEG. Hugging Face: train-*.parquet and validation-*.parquet, there or
in data/, with columns `image` {bytes, path} and `label`.
"""

from pathlib import Path

from rpg.data.pictures import FilePictures, ParquetPictures, Pictures, PictureSets, hold_out
from rpg.utils.errors import UserError

LAYOUTS = "neither train/ and val/, with a folder for each class, nor train-*.parquet and validation-*.parquet"


def load_imagenet(folder: Path, validation: int) -> PictureSets:
    """The data set in `folder`; `validation` of its training images are the validation split, its own one is `test`.

    Raises UserError if it has neither layout, or if the two parts do not have the same classes.
    """
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        (train, classes), (test, found) = (_class_folders(folder / part) for part in ("train", "val"))
        if found != classes:
            other = sorted(set(classes) ^ set(found))[0]
            raise UserError(f"{folder}: train/ and val/ have not the same classes; one of them has no {other}/")
    else:
        train, test = (_parquet(folder, part) for part in ("train", "validation"))
        numbers = sorted(set(train.labels.tolist()))
        if numbers != list(range(len(numbers))) or not set(test.labels.tolist()) <= set(numbers):
            raise UserError(f"{folder}: the labels of its parquet files are not those of one set of classes")
        classes = tuple(map(str, numbers))
    learned, validated = hold_out(train, validation, seed=0)
    return PictureSets(learned, validated, test, classes)


def _class_folders(folder: Path) -> tuple[Pictures, tuple[str, ...]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(folder))
    except (OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{folder}: a folder of images for each class is expected there ({message})") from error
    return FilePictures([Path(file) for file, _ in found.samples], found.targets), tuple(found.classes)


def _parquet(folder: Path, part: str) -> Pictures:
    files = sorted([*folder.glob(f"{part}-*.parquet"), *folder.glob(f"data/{part}-*.parquet")])
    if not files:
        raise UserError(f"{folder}: {LAYOUTS}")
    # A file's name says how many there are: train-00000-of-00294.parquet.
    promised = files[0].stem.rpartition("-of-")[2]
    if promised.isdigit() and int(promised) != len(files):
        raise UserError(f"{folder}: {len(files)} of {int(promised)} {part}-*.parquet are there; fetch the others")
    return ParquetPictures(files)
