"""Object detection and instance segmentation with mmdetection, scored by its CocoMetric: COCO, or scenes like it."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.ops import box_iou

from rpg.data.scenes import write_scenes
from rpg.tasks.base import Region
from rpg.tasks.detection.coco import check_coco
from rpg.tasks.openmmlab.task import SCENES, OpenMMLab

# Metric of CocoMetric's → what it is called here; AP is the mean over IoU from 0.5 to 0.95.
NAMES = {
    f"{kind}_mAP{of}": f"{kind} {name}"
    for kind in ("bbox", "segm")
    for of, name in {
        "": "mAP",
        "_50": "AP50",
        "_75": "AP75",
        "_s": "AP small",
        "_m": "AP medium",
        "_l": "AP large",
    }.items()
}
# COCO's: the sides of squares between whose areas an object's lies.
SIZES = {"_s": (0, 32), "_m": (32, 96), "_l": (96, math.inf)}
# An object is found if the surest box that overlaps its own so much is of its class; and what is drawn is so sure.
OVERLAP, SURE = 0.5, 0.5


class Detection(OpenMMLab):
    """COCO's average precision of boxes and masks.

    The answers by which networks are compared are, for each object, the class of the surest box at its place; -1 is
    none.
    """

    scope = "mmdet"
    metrics = tuple(NAMES.values())

    def register(self) -> None:
        from mmdet.utils import register_all_modules

        import rpg.tasks.openmmlab.vitdet  # noqa: F401

        register_all_modules(init_default_scope=False)

    def write_scenes(self) -> Path:
        return write_scenes("coco", SCENES)

    def check_folder(self, folder: Path) -> None:
        check_coco(folder)

    def of_training(self, dataset: Any) -> dict[str, Any]:
        return {"data_prefix": dataset.data_prefix, "ann_file": dataset.ann_file}

    def check(self) -> None:
        from mmdet.registry import DATASETS

        for key in ("train_dataloader", "test_dataloader"):
            dataset = self.config[key].dataset
            names = dataset.get("metainfo", {}).get("classes") or DATASETS.get(dataset.type).METAINFO["classes"]
            categories = json.loads((self.folder / dataset.ann_file).read_bytes())["categories"]
            # mmdet would number those that it finds, and say nothing of the others.
            unknown = [name for name in names if name not in {category["name"] for category in categories}]
            if unknown:
                raise self._refused(f"{dataset.ann_file} knows no class '{unknown[0]}'")
        super().check()

    def evaluator(self, split: str, dataset: Any) -> Any:
        from mmdet.registry import METRICS

        # As the data set has joined it with its root.
        metric = METRICS.build({**self.config.test_evaluator, "ann_file": dataset.ann_file})
        metric.img_ids = [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))]
        return metric

    @contextmanager
    def main_alone(self, evaluator: Any) -> Iterator[None]:
        """Boxes alone, where they are measured, since masks take half of the time."""
        (metric,) = evaluator.metrics
        measured = metric.metrics
        # Detectors that find boxes first have one; others make masks all the same.
        head: Any = getattr(self.network, "roi_head", None)
        if "bbox" not in measured or not getattr(head, "with_mask", False):
            yield
            return
        metric.metrics, head.predict_mask = ["bbox"], _rescaled
        try:
            yield
        finally:
            metric.metrics = measured
            # What was put over the method of its class.
            del head.predict_mask

    def answer(self, sample: Any) -> np.ndarray:
        truth, found = sample.gt_instances, sample.pred_instances
        answers = np.full(len(truth.labels), -1)
        if len(answers) and len(found.labels):
            overlaps = box_iou(_boxes(truth.bboxes), _boxes(found.bboxes)).cpu().numpy()
            scores = np.where(overlaps >= OVERLAP, found.scores.cpu().numpy(), -1)
            surest = scores.argmax(1)
            hit = scores.max(1) >= 0
            answers[hit] = found.labels.cpu().numpy()[surest[hit]]
        return answers

    def target(self, sample: Any) -> np.ndarray:
        return sample.gt_instances.labels.cpu().numpy()

    def percent(self, found: dict[str, float], split: str) -> dict[str, float]:
        # Of a network that finds nothing at all CocoMetric says nothing.
        return {NAMES[name]: 100 * found.get(name, 0.0) for name in NAMES if self._measured(name, split)}

    def _measured(self, name: str, split: str) -> bool:
        """Whether there are objects of the sizes that a metric is of; where there are none, CocoMetric says -1."""
        low, high = SIZES.get(name[-2:], (0, math.inf))
        return any(low**2 <= area <= high**2 for area in self._areas(split))

    def _areas(self, split: str) -> list[float]:
        _, evaluator = self.loaded(split)
        (metric,) = evaluator.metrics
        coco = metric._coco_api
        entries = coco.load_anns(coco.get_ann_ids(img_ids=metric.img_ids, iscrowd=False))
        return [entry["area"] for entry in entries]

    def regions(self, sample: Any, names: Sequence[str]) -> tuple[list[Region], list[Region]]:
        truth, found = sample.gt_instances, sample.pred_instances
        found = found[found.scores >= SURE]

        def of(labels: Any, masks: np.ndarray) -> list[Region]:
            return [
                Region(int(label), names[label], mask.astype(bool))
                for label, mask in zip(labels.cpu().numpy(), masks, strict=True)
            ]

        return of(truth.labels, truth.masks.masks), of(found.labels, found.masks.cpu().numpy())


def _rescaled(maps: Any, metas: Sequence[dict[str, Any]], results: list[Any], rescale: bool = False) -> list[Any]:
    """What mmdet's `predict_mask` does to the boxes, which come in the scale of the network's input, and no masks."""
    if rescale:
        for meta, result in zip(metas, results, strict=True):
            result.bboxes /= result.bboxes.new_tensor(meta["scale_factor"]).repeat(1, 2)
    return results


def _boxes(boxes: Any) -> Any:
    """Boxes as a tensor [n, 4], which mmdet may wrap."""
    return getattr(boxes, "tensor", boxes)
