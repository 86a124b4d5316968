"""Load data sets whose pictures are read one by one."""

from rpg.data import data_folder
from rpg.data.pictures import PictureSets


def load_pictures(name: str, data_root: str | None, validation: int) -> PictureSets:
    """Load data set `name`; the validation split is `validation` of its training pictures.

    Raises UserError if its folder is missing or has another layout.
    """
    folder = data_folder(name, data_root)
    if name == "imagenet":
        from rpg.tasks.fine_tuning.imagenet import load_imagenet

        return load_imagenet(folder, validation)
    from rpg.data.cifar10 import load_cifar10_pictures

    return load_cifar10_pictures(folder, validation)
