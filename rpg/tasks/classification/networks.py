"""Register two networks with timm: the convolutional networks for CIFAR-10 of the model zoos of Schürholt et al.

Source: Model Zoos: A Dataset of Diverse Populations of Neural Network Models (arXiv 2209.14764). p-diff, SANE and RPG
use them for comparison. They have three convolutions, each with pooling and GELU, and two linear layers.
"""

from typing import Any

from timm.models import register_model
from torch import nn


class _Convolutional(nn.Sequential):
    def __init__(self, channels: tuple[int, int, int], kernels: tuple[int, int, int], features: int, **timms: Any):
        """`features`: inputs of the first linear layer. Of timm's own arguments only `num_classes` has an effect."""
        layers: list[nn.Module] = []
        for before, after, kernel in zip((3, *channels), channels, kernels, strict=False):
            # The small network's last feature map is too small for pooling.
            pooling = [nn.MaxPool2d(2)] if kernel > 2 else []
            layers += [nn.Conv2d(before, after, kernel), *pooling, nn.GELU()]
        head = [nn.Linear(features, 20), nn.GELU(), nn.Linear(20, timms.get("num_classes", 10))]
        super().__init__(*layers, nn.Flatten(), *head)


@register_model
def cnn_small(pretrained: bool = False, **timms: Any) -> nn.Module:
    """2,864 weights, for images of 28 pixels."""
    return _Convolutional((8, 6, 4), (5, 5, 2), 36, **timms)


@register_model
def cnn_medium(pretrained: bool = False, **timms: Any) -> nn.Module:
    """10,853 weights, for images of 32 pixels."""
    return _Convolutional((16, 32, 15), (3, 3, 3), 60, **timms)
