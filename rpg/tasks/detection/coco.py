"""Check COCO in the layout of its archives: train2017/ and val2017/, and annotations/instances_<part>.json."""

import json
from pathlib import Path

from rpg.utils.errors import UserError

PARTS = ("train2017", "val2017")


def check_coco(folder: Path) -> None:
    """Raise UserError if a folder, an annotation file or an image named in it is missing or broken."""
    for part in PARTS:
        file = folder / "annotations" / f"instances_{part}.json"
        if not (folder / part).is_dir():
            raise UserError(f"{folder / part}: no such data folder; unpack {part}.zip into {folder}")
        if not file.is_file():
            raise UserError(f"{file}: missing; unpack annotations_trainval2017.zip into {folder}")
        try:
            tree = json.loads(file.read_bytes())
            named = {image["file_name"] for image in tree["images"]}
            known = {image["id"] for image in tree["images"]}
            if not all("name" in category for category in tree["categories"]):
                raise ValueError("a category has no name")
            unknown = [entry["id"] for entry in tree["annotations"] if entry["image_id"] not in known]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not COCO's annotations ({' '.join(str(error).split())[:200]})") from error
        if unknown:
            raise UserError(f"{file}: annotation {unknown[0]} belongs to no listed image; unpack the archive again")
        missing = sorted(named - {path.name for path in (folder / part).iterdir()})
        if missing:
            raise UserError(
                f"{folder / part / missing[0]}: missing, one of {len(missing)} images; unpack {part}.zip again"
            )
