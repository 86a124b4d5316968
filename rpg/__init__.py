"""Recurrent diffusion for parameter generation (RPG, arXiv 2501.11587): learn from checkpoints, sample new ones."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rpg.generator.generate import generate
    from rpg.generator.hub import Generator

__all__ = ["Generator", "generate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On first use: `import rpg` and the command line's help need no torch.
    if name == "generate":
        from rpg.generator.generate import generate

        return generate
    if name == "Generator":
        from rpg.generator.hub import Generator

        return Generator
    raise AttributeError(f"module 'rpg' has no attribute '{name}'")
