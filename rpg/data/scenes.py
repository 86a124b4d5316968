"""Scenes of handwritten digits: a miniature of ADE20K and of COCO, in the same files, for the same loaders.

A scene is a textured background with two of scikit-learn's digits in any color, which may overlap. The last VALIDATION
scenes of the training folder are the validation split: networks do not train on them. Each split of the scenes uses
digits of the same split of the digits data set.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image, ImageFilter

from rpg.data.digits import load_digits_images
from rpg.data.images import Images
from rpg.utils.files import atomic, exclusive, read_json, sha256, write_json
from rpg.utils.rng import derive

TRAIN, VALIDATION, TEST = 1500, 20, 60
RESOLUTION = 32
CLASSES = tuple(map(str, range(10)))
OBJECTS = 2
# SIDE is the width of a digit's square in pixels. Its position is a multiple of GRID pixels.
SIDE, GRID = 16, 8
# A digit with fewer visible pixels is no object.
SMALLEST = 8
# The images are JPEG files, as in ADE20K and COCO.
QUALITY = 95
# The last object of every CROWD-th scene is annotated as a crowd region.
CROWD = 10


@dataclass(frozen=True)
class Scene:
    """An RGB image [H, W, 3] uint8, and its objects: a digit and the mask of its visible pixels, bool [H, W]."""

    image: np.ndarray
    objects: list[tuple[int, np.ndarray]]


def compose(split: str, index: int) -> Scene:
    """Compose scene number `index` of 'train', 'validation' or 'test'. Later digits cover earlier ones."""
    draw = np.random.default_rng(derive("scene", split, index))
    digits = _digits().split(split)
    image = _texture(draw)
    objects: list[tuple[int, np.ndarray]] = []
    for _ in range(OBJECTS):
        pick = int(draw.integers(len(digits.labels)))
        gray = Image.fromarray(16 * digits.images[pick, 0].numpy().clip(max=15))
        row, column = GRID * draw.integers((RESOLUTION - SIDE) // GRID, size=2, endpoint=True)
        mask = np.zeros((RESOLUTION, RESOLUTION), bool)
        mask[row : row + SIDE, column : column + SIDE] = np.asarray(gray.resize((SIDE, SIDE))) > 100
        objects = [(digit, other & ~mask) for digit, other in objects]
        objects.append((int(digits.labels[pick]), mask))
        color = draw.integers(170, 256, size=3)
        image[mask] = color + draw.normal(0, 12, (int(mask.sum()), 3))
    seen = [(digit, mask) for digit, mask in objects if mask.sum() >= SMALLEST]
    return Scene(image.clip(0, 255).astype(np.uint8), seen)


@cache
def _digits() -> Images:
    return load_digits_images()


def _texture(draw: np.random.Generator) -> np.ndarray:
    """Return a background [H, W, 3], float: stripes and smooth noise on one color."""
    rows, columns = np.mgrid[:RESOLUTION, :RESOLUTION] / RESOLUTION
    angle, frequency, phase = draw.uniform(0, np.pi), draw.uniform(2, 8), draw.uniform(0, 2 * np.pi)
    stripes = np.sin(2 * np.pi * frequency * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    noise = Image.fromarray(draw.integers(0, 256, (RESOLUTION, RESOLUTION, 3), dtype=np.uint8))
    smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(1)), float) - 127.5
    return draw.uniform(30, 100, size=3) + 14 * stripes[..., None] + smooth


def write_scenes(layout: str, folder: Path) -> Path:
    """Write the scenes once in the layout of 'ade20k' or 'coco'; return the folder for the loaders."""
    root = folder / {"ade20k": "ADEChallengeData2016", "coco": "coco"}[layout]
    with exclusive(root):
        whole = root / "scenes.json"
        # scenes.json is written last: a folder without it is incomplete.
        if not whole.is_file() or read_json(whole, "rpg zoo") != _facts_of(root):
            for old in root.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            scenes = {
                "training": [
                    compose(split, index)
                    for split, count in {"train": TRAIN, "validation": VALIDATION}.items()
                    for index in range(count)
                ],
                "validation": [compose("test", index) for index in range(TEST)],
            }
            {"ade20k": _write_ade, "coco": _write_coco}[layout](root, scenes)
            write_json(whole, _facts_of(root))
    return root


def _facts_of(root: Path) -> dict[str, Any]:
    """Return facts that change if this source file changes or if a written file is deleted."""
    files = [
        path for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".json") and path.name != "scenes.json"
    ]
    return {"source": sha256(Path(__file__)), "files": len(files)}


def _write_ade(root: Path, scenes: dict[str, list[Scene]]) -> None:
    """Write images/<part>/*.jpg and annotations/<part>/*.png: 0 is unlabeled, 1 the background, 2 + k the digit k."""
    for part, of_part in scenes.items():
        prefix = {"training": "train", "validation": "val"}[part]
        for number, scene in enumerate(of_part, 1):
            labels = np.ones(scene.image.shape[:2], np.uint8)
            for digit, mask in scene.objects:
                labels[mask] = 2 + digit
            # The image's border is unlabeled, as many pixels of ADE20K are.
            labels[[0, -1]] = labels[:, [0, -1]] = 0
            name = f"ADE_{prefix}_{number:08d}"
            _save(root / "images" / part / f"{name}.jpg", scene.image, "JPEG", quality=QUALITY)
            _save(root / "annotations" / part / f"{name}.png", labels, "PNG")


def _write_coco(root: Path, scenes: dict[str, list[Scene]]) -> None:
    """Write train2017/ and val2017/ with *.jpg, and annotations/instances_*.json.

    The annotations are polygons, and run lengths for crowds.
    """
    for part, of_part in scenes.items():
        name = {"training": "train2017", "validation": "val2017"}[part]
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, scene in enumerate(of_part, 1):
            file = f"{number:012d}.jpg"
            _save(root / name / file, scene.image, "JPEG", quality=QUALITY)
            height, width = scene.image.shape[:2]
            images.append({"id": number, "file_name": file, "height": height, "width": width})
            for entry in _annotations(scene, crowd=number % CROWD == 0):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
        # Category numbers have gaps, as in COCO.
        categories = [{"id": 2 * k + 1, "name": digit, "supercategory": "digit"} for k, digit in enumerate(CLASSES)]
        tree = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / "annotations" / f"instances_{name}.json", tree)


def _annotations(scene: Scene, crowd: bool) -> Iterator[dict[str, Any]]:
    """Yield COCO's annotation of each object; with `crowd` the last object is a crowd region."""
    *alone, last = scene.objects
    for digit, mask in scene.objects if not crowd else alone:
        yield {**_facts(digit, mask), "segmentation": polygons(mask), "iscrowd": 0}
    if crowd:
        digit, mask = last
        yield {**_facts(digit, mask), "segmentation": run_lengths(mask), "iscrowd": 1}


def _facts(digit: int, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    return {"category_id": 2 * digit + 1, "area": int(mask.sum()), "bbox": box}


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Return COCO's uncompressed run lengths of a mask [H, W], column by column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = [0, *changes.tolist(), len(flat)]
    counts = np.diff(edges).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Return COCO's polygons of a mask [H, W], [x, y, x, y, ...]: one for each part, with filled holes, as in COCO."""
    lines: Any = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    # A pixel's center lies half a pixel from its edge, and the padding adds one pixel.
    outlines = [np.clip(line - 0.5, 0, mask.shape[::-1]) for line in lines]
    # The outline of a hole runs in the opposite direction, so its signed area is negative.
    return [outline[:-1].round(2).ravel().tolist() for outline in outlines if _area(outline) > 0]


def _area(outline: np.ndarray) -> float:
    """Return the signed area of a closed polygon [n, 2]."""
    (x, y), (next_x, next_y) = outline[:-1].T, outline[1:].T
    return float((x * next_y - next_x * y).sum() / 2)


def _save(path: Path, image: np.ndarray, kind: str, **options: int) -> None:
    with atomic(path) as temporary:
        Image.fromarray(image).save(temporary, kind, **options)
