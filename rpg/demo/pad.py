"""The drawing pad of `rpg demo`."""

from pathlib import Path

import streamlit as st
import torch
from torch import Tensor

from rpg.generator.prompt_images import ImageForm

PAD = st.components.v2.component(
    "rpg_pad",
    html='<canvas aria-label="drawing pad"></canvas><br><button>clear</button>',
    css="canvas { touch-action: none; cursor: crosshair }",
    js=Path(__file__).with_name("pad.js").read_text(encoding="utf-8"),
)


def drawn_image(key: str, form: ImageForm) -> Tensor | None:
    """Show a drawing pad for a gray image; return the drawing [1, H, W] uint8, or None while the pad is empty."""
    _, height, width = form.shape
    drawn = PAD(
        key=key,
        data={"rows": height, "columns": width, "white": form.white},
        default={"pixels": []},
        on_pixels_change=lambda: None,
    )
    return torch.tensor(drawn.pixels).to(torch.uint8).view(1, height, width) if any(drawn.pixels) else None
