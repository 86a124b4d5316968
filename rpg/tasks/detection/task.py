"""Object detection and instance segmentation with mmdetection, scored by its CocoMetric: COCO, or scenes like it."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from rpg.data.scenes import write_scenes
from rpg.tasks.base import Region
from rpg.tasks.detection.coco import check_coco
from rpg.tasks.openmmlab.task import SCENES, OpenMMLab

# CocoMetric's name of a metric → this project's name. AP is the mean over IoU from 0.5 to 0.95.
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
# COCO's object sizes: an object's area lies between the squares of these numbers.
SIZES = {"_s": (0, 32), "_m": (32, 96), "_l": (96, math.inf)}
# An object is found if the box with the highest score among the boxes of at least this IoU has the object's class.
# Pictures show boxes of at least this score.
MIN_IOU, MIN_SCORE = 0.5, 0.5


class Detection(OpenMMLab):
    """COCO's average precision of boxes and masks.

    The answers for comparing networks are, for each object, the class of the highest-scored box at the object's place,
    or -1 if there is no box.
    """

    scope = "mmdet"
    visualizer = "DetLocalVisualizer"
    metrics = tuple(NAMES.values())

    @classmethod
    def register(cls) -> None:
        from mmdet.utils import register_all_modules

        import rpg.tasks.openmmlab.vitdet  # noqa: F401

        register_all_modules(init_default_scope=False)

    def write_scenes(self) -> Path:
        return write_scenes("coco", SCENES)

    def check_folder(self, folder: Path) -> None:
        check_coco(folder)

    def training_keys(self, dataset: Any) -> dict[str, Any]:
        return {"data_prefix": dataset.data_prefix, "ann_file": dataset.ann_file}

    def check(self) -> None:
        from mmdet.registry import DATASETS

        for key in ("train_dataloader", "test_dataloader"):
            dataset = self.config[key].dataset
            names = dataset.get("metainfo", {}).get("classes") or DATASETS.get(dataset.type).METAINFO["classes"]
            categories = json.loads((self.folder / dataset.ann_file).read_bytes())["categories"]
            # mmdet silently drops unknown classes and renumbers the rest.
            unknown = [name for name in names if name not in {category["name"] for category in categories}]
            if unknown:
                raise self._refused(f"{dataset.ann_file} knows no class '{unknown[0]}'; correct metainfo.classes")
        super().check()

    def evaluator(self, split: str, dataset: Any) -> Any:
        from mmdet.registry import METRICS

        # The data set's ann_file already includes data_root.
        metric = METRICS.build({**self.config.test_evaluator, "ann_file": dataset.ann_file})
        metric.img_ids = [dataset.get_data_info(index)["img_id"] for index in range(len(dataset))]
        return metric

    @contextmanager
    def main_metric_only(self, evaluator: Any) -> Iterator[None]:
        """Measure boxes only, if the config measures boxes, because masks take half of the time."""
        (metric,) = evaluator.metrics
        measured = metric.metrics
        # Only detectors that find boxes first have a roi_head; others always compute masks.
        head: Any = getattr(self.network, "roi_head", None)
        if "bbox" not in measured or not getattr(head, "with_mask", False):
            yield
            return
        metric.metrics, head.predict_mask = ["bbox"], _rescaled
        try:
            yield
        finally:
            metric.metrics = measured
            # This restores the method of the head's class.
            del head.predict_mask

    def forward(self, network: nn.Module, images: Tensor) -> Any:
        # The boxes that the first stage proposes jump with its scores, so the second stage gets fixed regions.
        detector: Any = network
        maps = detector.extract_feat(images)
        heads = [getattr(detector, name, None) for name in ("rpn_head", "bbox_head")]
        found = [head(maps) for head in heads if head]
        if head := getattr(detector, "roi_head", None):
            boxes = head._bbox_forward(maps, _regions(head.bbox_roi_extractor))
            found += [boxes["cls_score"], boxes["bbox_pred"]]
            if head.with_mask:
                found.append(head._mask_forward(maps, _regions(head.mask_roi_extractor))["mask_preds"])
        return found or maps

    def answer(self, sample: Any) -> np.ndarray:
        truth, predicted = sample.gt_instances, sample.pred_instances
        answers = np.full(len(truth.labels), -1)
        if len(answers) and len(predicted.labels):
            overlaps = box_iou(_boxes(truth.bboxes), _boxes(predicted.bboxes)).cpu().numpy()
            scores = np.where(overlaps >= MIN_IOU, predicted.scores.cpu().numpy(), -1)
            best = scores.argmax(1)
            hit = scores.max(1) >= 0
            answers[hit] = predicted.labels.cpu().numpy()[best[hit]]
        return answers

    def target(self, sample: Any) -> np.ndarray:
        return sample.gt_instances.labels.cpu().numpy()

    def percent(self, scores: dict[str, float], split: str) -> dict[str, float]:
        # CocoMetric reports no scores for a network without any detection.
        return {NAMES[name]: 100 * scores.get(name, 0.0) for name in NAMES if self._measured(name, split)}

    def _measured(self, name: str, split: str) -> bool:
        """Return whether the split has objects of a metric's size; without such objects CocoMetric reports -1."""
        low, high = SIZES.get(name[-2:], (0, math.inf))
        return any(low**2 <= area <= high**2 for area in self._areas(split))

    def _areas(self, split: str) -> list[float]:
        _, evaluator = self.loaded(split)
        (metric,) = evaluator.metrics
        coco = metric._coco_api
        entries = coco.load_anns(coco.get_ann_ids(img_ids=metric.img_ids, iscrowd=False))
        return [entry["area"] for entry in entries]

    def regions(self, sample: Any, names: Sequence[str]) -> tuple[list[Region], list[Region]]:
        truth, predicted = sample.gt_instances, sample.pred_instances
        predicted = predicted[predicted.scores >= MIN_SCORE]

        def regions_of(labels: Any, masks: np.ndarray) -> list[Region]:
            return [
                Region(int(label), names[label], mask.astype(bool))
                for label, mask in zip(labels.cpu().numpy(), masks, strict=True)
            ]

        predicted_masks = predicted.masks.cpu().numpy()
        return regions_of(truth.labels, truth.masks.masks), regions_of(predicted.labels, predicted_masks)


def _rescaled(maps: Any, metas: Sequence[dict[str, Any]], results: list[Any], rescale: bool = False) -> list[Any]:
    """Rescale the boxes to the image, as mmdet's `predict_mask` does, but compute no masks."""
    if rescale:
        for meta, result in zip(metas, results, strict=True):
            result.bboxes /= result.bboxes.new_tensor(meta["scale_factor"]).repeat(1, 2)
    return results


def _regions(extractor: Any) -> Tensor:
    """Return [n, 5], image and box: regions in two images, one per level of the feature pyramid that serves regions."""
    sizes = [1.2 * extractor.finest_scale * 2**level for level in range(len(extractor.roi_layers))]
    return torch.tensor([[image, 1, 2, 1 + size, 2 + size] for image in (0, 1) for size in sizes])


def _boxes(boxes: Any) -> Any:
    """Return boxes as a tensor [n, 4]; mmdet may wrap them."""
    return getattr(boxes, "tensor", boxes)
