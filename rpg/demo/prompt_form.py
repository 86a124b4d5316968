"""The form of `rpg demo` for an RPG that takes images: pictures of no and of yes, uploaded or drawn."""

from typing import Any

import streamlit as st
import torch
from torch import Tensor

from rpg.demo.pad import drawn_image
from rpg.generator.prompt_images import ANSWERS, ImageForm, ImagePrompt, read_picture
from rpg.utils.errors import UserError


def prompt_form(form: ImageForm) -> ImagePrompt | None:
    """Show both answers' images, with a way to add some; return the prompt if both answers have images."""
    st.write("Show some images that the network should answer with no, and some with yes.")
    columns = st.columns(len(ANSWERS))
    shown = {answer: _side(column, answer, form) for column, answer in zip(columns, ANSWERS, strict=True)}
    if not all(shown.values()):
        return None
    images = [image for answer in ANSWERS for image in shown[answer]]
    labels = [label for label, answer in enumerate(ANSWERS) for _ in shown[answer]]
    return ImagePrompt(torch.stack(images), torch.tensor(labels))


def _side(column: Any, answer: str, form: ImageForm) -> list[Tensor]:
    """Show the images of one answer; return them."""
    drawings: list[Tensor] = st.session_state.setdefault(f"drawings-{answer}", [])
    with column:
        st.subheader(answer)
        files = st.file_uploader(f"Pictures of {answer}", accept_multiple_files=True, key=f"files-{answer}")
        images = [image for file in files if (image := _uploaded(file, form)) is not None]
        if form.shape[0] == 1:
            drawing = drawn_image(f"pad-{answer}", form)
            if st.button(f"Add the drawing to {answer}") and drawing is not None:
                drawings.append(drawing)
        if drawings and st.button(f"Remove the drawings of {answer}"):
            drawings.clear()
        images += drawings
        st.write(f"{len(images)} image{'' if len(images) == 1 else 's'} of {answer}")
        if images:
            st.image([image.permute(1, 2, 0).squeeze(-1).numpy() / form.white for image in images[:20]], width=48)
    return images


def _uploaded(file: Any, form: ImageForm) -> Tensor | None:
    """Return an uploaded picture as an image; None, with a message on the page, if it is no picture."""
    try:
        return read_picture(file, form)
    except UserError as error:
        st.error(str(error))
        return None
