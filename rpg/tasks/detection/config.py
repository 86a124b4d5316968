"""Object detection and instance segmentation with mmdetection: `task.kind` detection."""

from typing import TYPE_CHECKING, ClassVar, Literal

from rpg.tasks.openmmlab.config import OpenMMLabTask

if TYPE_CHECKING:
    from rpg.tasks.detection.task import Detection


class DetectionTask(OpenMMLabTask):
    """Object detection and instance segmentation with a network of mmdetection; the metric is bbox mAP in percent."""

    library: ClassVar = "mmdet"
    titles: ClassVar = {"coco": "COCO 2017"}
    pipeline_tag: ClassVar = "object-detection"
    card_metric: ClassVar = "mean_average_precision"

    kind: Literal["detection"]
    data: Literal["scenes", "coco"]

    @classmethod
    def import_libraries(cls) -> None:
        from rpg.tasks.detection.task import Detection

        Detection.import_libraries()

    def load(self, data_root: str | None) -> "Detection":
        from rpg.tasks.detection.task import Detection

        return Detection(self, data_root)
