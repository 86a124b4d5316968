"""Recurrent diffusion for parameter generation (RPG, arXiv 2501.11587): learn from checkpoints, sample new ones."""

__version__ = "0.1.0"
