"""Semantic segmentation with mmsegmentation: `task.kind` segmentation."""

from typing import TYPE_CHECKING, ClassVar, Literal

from rpg.tasks.openmmlab.config import OpenMMLabTask

if TYPE_CHECKING:
    from rpg.tasks.segmentation.task import Segmentation


class SegmentationTask(OpenMMLabTask):
    """Semantic segmentation with a network of mmsegmentation; the metric is mIoU in percent."""

    library: ClassVar = "mmsegmentation"
    titles: ClassVar = {"ade20k": "ADE20K"}
    pipeline_tag: ClassVar = "image-segmentation"
    card_metric: ClassVar = "mean_iou"

    kind: Literal["segmentation"]
    data: Literal["scenes", "ade20k"]

    @classmethod
    def import_libraries(cls) -> None:
        from rpg.tasks.segmentation.task import Segmentation

        Segmentation.import_libraries()

    def load(self, data_root: str | None) -> "Segmentation":
        from rpg.tasks.segmentation.task import Segmentation

        return Segmentation(self, data_root)
