"""Semantic segmentation with mmsegmentation, scored by its IoUMetric: ADE20K (Zhou et al. 2017), or scenes like it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpg.data.scenes import write_scenes
from rpg.tasks.base import Region
from rpg.tasks.openmmlab.task import SCENES, OpenMMLab, quiet
from rpg.tasks.segmentation.ade20k import check_ade20k

# The answers for comparing networks are those at GRID × GRID pixels of each image; the metric uses all pixels.
GRID = 16
UNLABELED = 255
# Number of images whose labels are checked before a training.
CHECKED_IMAGES = 20


class Segmentation(OpenMMLab):
    """mIoU, mAcc and aAcc: mean IoU and mean recall over classes, and the share of correct pixels."""

    scope = "mmseg"
    visualizer = "SegLocalVisualizer"
    metrics = ("mIoU", "mAcc", "aAcc")

    @classmethod
    def register(cls) -> None:
        # `register_all_modules` leaves it out, and mmseg's own configs name its class.
        import mmseg.visualization  # noqa: F401
        from mmseg.utils import register_all_modules

        import rpg.tasks.openmmlab.vitdet  # noqa: F401

        register_all_modules(init_default_scope=False)

    def write_scenes(self) -> Path:
        return write_scenes("ade20k", SCENES)

    def check_folder(self, folder: Path) -> None:
        check_ade20k(folder)

    def training_keys(self, dataset: Any) -> dict[str, Any]:
        return {"data_prefix": dataset.data_prefix}

    def check(self) -> None:
        super().check()
        dataset = self._dataset("validation")
        classes = len(dataset.metainfo["classes"])
        with quiet():
            samples = [dataset[index]["data_samples"] for index in range(min(CHECKED_IMAGES, len(dataset)))]
        for sample in samples:
            labels = sample.gt_sem_seg.data
            largest = int(torch.where(labels == UNLABELED, 0, labels).max())
            if largest >= classes:
                raise self._refused(
                    f"{sample.seg_map_path} has label {largest}, but the data set has {classes} classes"
                )

    def forward(self, network: nn.Module, images: Tensor) -> Any:
        # The auxiliary head counts, because its weights are part of the checkpoint.
        segmentor: Any = network
        maps = segmentor.extract_feat(images)
        auxiliary = getattr(segmentor, "auxiliary_head", None)
        others = auxiliary if isinstance(auxiliary, nn.ModuleList) else [auxiliary] if auxiliary else []
        return [head(maps) for head in (segmentor.decode_head, *others)]

    def answer(self, sample: Any) -> np.ndarray:
        return _grid(sample.pred_sem_seg.data)[_grid(sample.gt_sem_seg.data) != UNLABELED]

    def target(self, sample: Any) -> np.ndarray:
        labels = _grid(sample.gt_sem_seg.data)
        return labels[labels != UNLABELED]

    def percent(self, scores: dict[str, float], split: str) -> dict[str, float]:
        return scores

    def regions(self, sample: Any, names: Sequence[str]) -> tuple[list[Region], list[Region]]:
        regions = [
            [Region(int(index), names[index], labels == index) for index in np.unique(labels) if index != UNLABELED]
            for labels in (sample.gt_sem_seg.data[0].cpu().numpy(), sample.pred_sem_seg.data[0].cpu().numpy())
        ]
        return regions[0], regions[1]


def _grid(labels_1HW: Tensor) -> np.ndarray:
    """Return [GRID²] the labels at the centers of GRID × GRID equal parts of an image."""
    labels_HW = labels_1HW[0].cpu().numpy()
    rows, columns = (((np.arange(GRID) + 0.5) * length / GRID).astype(int) for length in labels_HW.shape)
    return labels_HW[np.ix_(rows, columns)].ravel()
