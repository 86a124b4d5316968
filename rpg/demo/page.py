"""The page of `rpg demo`. Streamlit runs it: streamlit run rpg/demo/page.py -- digits-tasks"""

import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import streamlit as st
from safetensors.torch import save
from torch import Tensor

from rpg.demo.pad import drawn_image
from rpg.demo.prompt_form import prompt_form
from rpg.demo.serve import load
from rpg.generator.prompt_images import ImageForm
from rpg.generator.requests import task_code
from rpg.generator.trained import GeneratedNetwork, TrainedRPG
from rpg.tasks.classification.task import Classification
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.rng import fix_arithmetic

TASK_INPUTS = ("Classes", "In words", "Code")


@st.cache_resource
def load_generator(experiment: str, folder: str) -> tuple[TrainedRPG, Classification]:
    """Load the trained RPG and its task; Streamlit keeps both between reruns of the page."""
    trained = load(experiment, Path(folder))
    return trained, cast(Classification, trained.benchmark)


def classes_of(generator: TrainedRPG) -> tuple[str, ...]:
    """Return the names of the classes; `rpg demo` serves only experiments with task codes."""
    names = generator.task.classes
    assert names
    return names


def request_network(generator: TrainedRPG) -> None:
    """Show the request form; the Generate button puts a new network into the session."""
    names = classes_of(generator)
    task_input = st.radio("Choose the classes that the network recognizes", TASK_INPUTS, horizontal=True)
    classes = st.multiselect("Classes", names, default=[names[3], names[8]]) if task_input == "Classes" else None
    sentence = (
        st.text_input("In words", "even numbers" if names[0] == "0" else "animals")
        if task_input == "In words"
        else None
    )
    code = st.text_input("One 0 or 1 per class", "0001000010") if task_input == "Code" else None
    seed = st.number_input("Seed", 0, 2**31, 0)
    options = ["any", *range(generator.states)]
    state = st.selectbox("Permutation state", options) if len(options) > 2 else "any"
    if st.button("Generate", type="primary"):
        try:
            chosen = task_code(generator.task, classes, code, sentence, generator.language_model)
            states = None if state == "any" else (int(state),)
            st.session_state.network = generator.networks(1, chosen, states, int(seed))[0]
        except UserError as error:
            st.session_state.pop("network", None)
            st.error(str(error))


def request_by_images(generator: TrainedRPG) -> None:
    """Show the form for images; its Generate button puts a new network into the session."""
    prompt = prompt_form(generator.image_form)
    seed = st.number_input("Seed", 0, 2**31, 0)
    if st.button("Generate", type="primary", disabled=prompt is None):
        started = time.perf_counter()
        st.session_state.network = generator.networks(1, None, None, int(seed), prompt=prompt)[0]
        st.session_state.seconds = time.perf_counter() - started


def show_answers(network: GeneratedNetwork, task: Classification, generator: TrainedRPG) -> None:
    """Show how often the network answers yes on the test images of each class, and a button for the weights."""
    labels, names = task.data.test.labels, classes_of(generator)
    answers = task.answers([network.state_dict], task.inputs("test"))[0].bool()
    st.subheader(f"A network from your images, made in {st.session_state.seconds:.2f} s")
    shares = {
        name: {"answers yes": f"{100 * float(answers[labels == index].double().mean()):.0f} %"}
        for index, name in enumerate(names)
        if (labels == index).any()
    }
    st.table(pd.DataFrame.from_dict(shares, orient="index").T)
    st.download_button("Download weights", save(network.state_dict), "network.safetensors")


def show_scores(network: GeneratedNetwork, task: Classification, generator: TrainedRPG) -> None:
    """Show the accuracy and the confusion table on the test split, and a button to download the weights."""
    assert network.code
    labels, names = task.data.test.labels, classes_of(generator)
    answers = task.answers([network.state_dict], task.inputs("test"))[0].bool()
    correct = answers == task.targets("test", network.code).bool()
    yes = [name for name, bit in zip(names, network.code, strict=True) if bit == "1"]
    st.subheader(f"A network that recognizes {', '.join(yes)}")
    facts = st.columns(3)
    facts[0].metric("test accuracy", f"{100 * correct.double().mean():.1f} %")
    facts[1].metric("task code", network.code)
    facts[2].metric("in the zoo", generator.zoo_membership(network.code))
    rows = {
        name: {
            "correct answer": "yes" if bit == "1" else "no",
            "answers yes": int((answers & (labels == index)).sum()),
            "answers no": int((~answers & (labels == index)).sum()),
        }
        for index, (name, bit) in enumerate(zip(names, network.code, strict=True))
    }
    st.table(pd.DataFrame.from_dict(rows, orient="index"))
    st.download_button("Download weights", save(network.state_dict), f"{network.code}.safetensors")


def try_out(network: GeneratedNetwork, task: Classification) -> None:
    """Show the network's answer for one image from the test split or from the drawing pad."""
    st.subheader("Try it")
    images = task.data.test.images
    channels, height, width = images.shape[1:]
    white = int(images.max())
    pick, draw = st.columns(2)
    with pick:
        index = int(st.number_input("Test image", 0, len(images) - 1, 0))
        st.image(_picture(images[index], white), width=160)
        _answer(network, task, images[index])
    if channels == 1:
        with draw:
            st.write("Or draw an image")
            drawing = drawn_image("pad", ImageForm((channels, height, width), white))
            if drawing is not None:
                _answer(network, task, drawing)


def _answer(network: GeneratedNetwork, task: Classification, image: Tensor) -> None:
    inputs = task.data.inputs(image.unsqueeze(0).to(device()), task.params.resolution)
    answer = "yes" if int(task.answers([network.state_dict], inputs)) else "no"
    st.markdown(f"The network answers **{answer}**")


def _picture(image: Tensor, white: int) -> np.ndarray:
    return (image.permute(1, 2, 0).squeeze(-1).float() / white).numpy()


def main(experiment: str, folder: str = "") -> None:
    """Show the whole page for a trained experiment, or for the packed generator in a folder."""
    st.set_page_config(page_title="Generate a network")
    st.title("Generate a network")
    # Streamlit runs the page in a new thread, which needs its own thread settings.
    fix_arithmetic(1)
    generator, task = load_generator(experiment, folder)
    by_images = generator.encoder is not None
    if by_images:
        st.write(f"`{generator.name}`: RPG makes a network for the task that your images show.")
        request_by_images(generator)
    else:
        st.write(
            f"`{generator.name}`: RPG learned from networks for {len(generator.learned)} of 1022 tasks."
            " Choose any task."
        )
        request_network(generator)
    if "network" in st.session_state:
        (show_answers if by_images else show_scores)(st.session_state.network, task, generator)
        try_out(st.session_state.network, task)


main(*sys.argv[1:])
