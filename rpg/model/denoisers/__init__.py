"""The denoisers by `model.denoiser.kind`. To add one, write a module here, a config block and an entry of the table."""

from rpg.model.denoisers.base import Denoiser
from rpg.model.denoisers.convolution import ConvolutionDenoiser
from rpg.model.denoisers.mlp import MLPDenoiser
from rpg.model.denoisers.none import NoDenoiser

__all__ = ["DENOISERS", "ConvolutionDenoiser", "Denoiser", "MLPDenoiser", "NoDenoiser"]

DENOISERS = {"convolution": ConvolutionDenoiser, "mlp": MLPDenoiser, "none": NoDenoiser}
