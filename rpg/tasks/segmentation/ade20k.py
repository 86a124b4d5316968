"""Check ADE20K in the layout of ADEChallengeData2016.zip: images/<part>/*.jpg and annotations/<part>/*.png."""

from pathlib import Path

from rpg.utils.errors import UserError

PARTS = ("training", "validation")


def check_ade20k(folder: Path) -> None:
    """Raise UserError if a folder is missing, or if an image has no label or a label no image."""
    for part in PARTS:
        names = {}
        for kind, suffix in {"images": ".jpg", "annotations": ".png"}.items():
            of_part = folder / kind / part
            if not of_part.is_dir():
                raise UserError(f"{of_part}: no such data folder; unpack ADEChallengeData2016.zip into {folder.parent}")
            names[kind] = {path.stem for path in of_part.iterdir() if path.suffix == suffix}
        if not names["images"]:
            raise UserError(f"{folder / 'images' / part}: holds no .jpg; unpack ADEChallengeData2016.zip again")
        for one, other, suffix in (("images", "annotations", ".png"), ("annotations", "images", ".jpg")):
            alone = sorted(names[one] - names[other])
            if alone:
                missing = folder / other / part / f"{alone[0]}{suffix}"
                raise UserError(
                    f"{missing}: missing, one of {len(alone)} in {part}; unpack ADEChallengeData2016.zip again"
                )
