"""The section of results/tables.md about the other metrics of segmentation and detection: the paper's Table 2."""

from collections.abc import Mapping

from rpg.tasks.config import ReportSection
from rpg.utils.artifacts import Compared, Reported

TEXT = """
## Segmentation and detection, by every metric

Of mmsegmentation's IoUMetric and mmdetection's CocoMetric, in percent on the test split. mIoU and mAcc are means over
classes, aAcc is the share of correct pixels; mAP is the mean of average precision over IoU from 0.5 to 0.95, of boxes
(bbox) and of masks (segm), AP50 and AP75 are that at one IoU, *small* and *medium* that of objects under 32² and 96²
pixels.

"""
_AP = ("AP50", "AP75", "AP small", "AP medium", "AP large")
# The metrics other than the main metric, in the order of the table.
METRICS = ("mAcc", "aAcc", *(f"bbox {ap}" for ap in _AP), *(f"segm {ap}" for ap in ("mAP", *_AP)))


def section(experiments: Mapping[str, Reported]) -> ReportSection | None:
    """Return the section with a row for each network and metric; None if no network has several metrics."""
    rows = []
    for name, entry in experiments.items():
        # JSON objects have no fixed order, so METRICS sets it.
        known = [metric for metric in METRICS if metric in entry.others]
        kinds: dict[str, Compared] = {entry.metric: entry} if known else {}
        kinds |= {metric: entry.others[metric] for metric in known}
        rows += [({"network": name, "metric": metric}, of) for metric, of in kinds.items()]
    return ReportSection(TEXT, rows) if rows else None
