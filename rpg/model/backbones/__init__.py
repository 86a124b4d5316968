"""The backbones by `model.backbone.kind`. To add one, write a module here, a config block and an entry of the table."""

from rpg.model.backbones.base import Backbone, TokenPositions
from rpg.model.backbones.mixers import MIXERS
from rpg.model.backbones.paper import PaperBackbone
from rpg.model.backbones.residual import ResidualBackbone

__all__ = ["BACKBONES", "Backbone", "PaperBackbone", "ResidualBackbone", "TokenPositions"]

BACKBONES = {"paper": PaperBackbone, **dict.fromkeys(MIXERS, ResidualBackbone)}
