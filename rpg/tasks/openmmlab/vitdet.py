"""ViTDet (Li et al. 2022, arXiv 2203.16527) for mmdet, which lacks it: timm's plain ViT and a simple feature pyramid.

mmdet knows them as `PlainViT` and `SimpleFeaturePyramid`. The norm layer `LN2d` is for ViTDet's heads.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

# What mmengine imports for a config with one of these types.
MODULE, TYPES = __name__, frozenset({"LN2d", "PlainViT", "SimpleFeaturePyramid"})
MODELS.register_module("LN2d", module=LayerNorm2d)


@MODELS.register_module()
class PlainViT(BaseModule):
    """timm's VisionTransformerSAM, ViTDet's backbone: window attention, global in some blocks, relative positions.

    `arguments` go to `timm.create_model("samvit_base_patch16", ...)`. The outputs are the maps after the blocks
    `out_indices`. `positions` is the number of rows and columns of the table of absolute positions, which is resized to
    the image's patches; the default is the image's number of patches. ViTDet keeps the 14 of its pretraining at 224
    pixels.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        out_indices: Sequence[int] = (-1,),
        positions: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        network: Any = timm.create_model(
            "samvit_base_patch16", pretrained=False, num_classes=0, neck_chans=0, **arguments
        )
        if positions:
            network.pos_embed = nn.Parameter(torch.zeros(1, positions, positions, network.embed_dim))
            nn.init.trunc_normal_(network.pos_embed, std=0.02)
        self.network = network
        self.out_indices = [index % len(network.blocks) for index in out_indices]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the blocks' outputs, [B, C, H / patch, W / patch] each, from images [B, 3, H, W]."""
        network: Any = self.network
        maps = network.forward_intermediates(images, indices=self.out_indices, norm=False, intermediates_only=True)
        return tuple(maps)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps of four scales from the backbone's last map, and a fifth map by pooling (ViTDet, section 3).

    In units of the backbone's stride the strides are 1/4, 1/2, 1, 2 and 4.
    """

    def __init__(self, in_channels: int, out_channels: int, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        half, quarter = in_channels // 2, in_channels // 4
        four = nn.Sequential(
            nn.ConvTranspose2d(in_channels, half, 2, 2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        scales = [
            (four, quarter),
            (nn.ConvTranspose2d(in_channels, half, 2, 2), half),
            (nn.Identity(), in_channels),
            (nn.MaxPool2d(2), in_channels),
        ]
        self.scales = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(width, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for scale, width in scales
        )
        self.coarsest = nn.MaxPool2d(1, 2)

    def forward(self, maps: tuple[Tensor]) -> tuple[Tensor, ...]:
        """Return the five maps, finest first."""
        (last,) = maps
        pyramid = [scale(last) for scale in self.scales]
        return (*pyramid, self.coarsest(pyramid[-1]))
