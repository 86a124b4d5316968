"""Published numbers for the networks of the paper's experiments, for comparison with the numbers here."""

from dataclasses import dataclass

RPG = "RPG, published"
# Method → the source of its numbers.
SOURCES = {
    RPG: "Wang et al. 2025, arXiv 2501.11587",
    "p-diff": "Wang et al. 2024, arXiv 2402.13144",
    "SANE": "Schürholt et al. 2024, arXiv 2406.09997",
    "D2NWG": "Soro et al. 2024, arXiv 2402.18153",
}


@dataclass(frozen=True)
class Published:
    """One row: `metric` in percent of the originals and of generated networks; None for unpublished numbers.

    A paper's single number for generated networks is `best`. `metric` is the task's name of the metric.
    """

    method: str
    metric: str
    original: float
    best: float | None = None
    mean: float | None = None
    min: float | None = None
    note: str = ""


def _imagenet(original: float, best: float, mean: float, lowest: float, note: str = "") -> tuple[Published, ...]:
    return (Published(RPG, "top1", original, best, mean, lowest, note),)


# Experiment → rows. RPG's paper is the source of the numbers of p-diff, SANE and D2NWG on CIFAR-10.
PUBLISHED = {
    "imagenet-resnet18": _imagenet(70.0, 69.9, 69.5, 69.0),
    "imagenet-resnet50": _imagenet(79.8, 79.6, 79.5, 79.4, "its code has GroupNorm"),
    "imagenet-resnet50_gn": _imagenet(79.8, 79.6, 79.5, 79.4),
    "imagenet-vit_tiny": _imagenet(74.9, 75.4, 75.3, 75.2),
    "imagenet-vit_small": _imagenet(81.4, 80.6, 80.5, 80.1),
    "imagenet-vit_base": _imagenet(84.4, 84.6, 84.4, 84.2),
    "imagenet-convnext_atto": _imagenet(75.2, 74.6, 74.4, 74.2),
    "imagenet-convnext_large": _imagenet(85.8, 85.8, 85.5, 85.2),
    "ade20k-upernet-vit_base": (Published(RPG, "mIoU", 47.6, 47.1), Published(RPG, "mAcc", 58.3, 57.5)),
    "coco-vitdet-vit_base": (Published(RPG, "bbox mAP", 43.6, 44.5), Published(RPG, "segm mAP", 39.0, 39.6)),
    "commonsense-llama7b-dora-r4": (Published(RPG, "PIQA", 71.3, 72.0), Published(RPG, "HellaSwag", 53.7, 56.7)),
    "cifar10-cnn_small": (Published(RPG, "top1", 49.0, 49.0), Published("p-diff", "top1", 49.0, 48.8)),
    "cifar10-cnn_medium": (Published(RPG, "top1", 62.1, 62.0), Published("p-diff", "top1", 62.1, 61.9)),
    "cifar10-resnet18": (
        Published(RPG, "top1", 95.3, 95.1),
        Published("p-diff", "top1", 95.3, note="out of memory"),
        Published("SANE", "top1", 85.5, 68.6),
        Published("D2NWG", "top1", 94.6, 94.6),
    ),
    "cifar10-vit_base": (
        Published(RPG, "top1", 98.7, 98.9),
        Published("p-diff", "top1", 98.7, note="out of memory"),
    ),
    "cifar10-tasks": (
        Published(RPG, "top1", 97.7, mean=95.0, note="10 of the 20 held-out tasks; its logs have 90.0 of all 20"),
    ),
}
