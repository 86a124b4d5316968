"""Data sets in miniature, on disk as the real ones are."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")
COLORS = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)


def jpeg(label: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), COLORS[label])).save(buffer, "JPEG")
    return buffer.getvalue()


def write_folders(folder: Path, train: int = 8, val: int = 2) -> None:
    """Folders of classes, so many images in each."""
    for part, count in {"train": train, "val": val}.items():
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                (folder / part / name / f"{name}_{index}.JPEG").write_bytes(jpeg(label))
