"""A trained RPG in a folder of its own, without zoo and params.yaml: `rpg pack --experiment NAME --out FOLDER`.

config.json          the generator: model, layout, conditions, sampler's settings, task, digests of the other files
model.safetensors    the weights of RPG
zoo.safetensors      stats.<name> [K] and skipped.<name> [S, *shape] of the tokenizer; conditions.<name> [N, C], the
                     conditions of the zoo's N checkpoints, from which omitted requests are drawn; encoder.<name>, the
                     base network and the pixels' statistics, if RPG takes images
model.onnx           the graph that generates without torch, where the model can be exported
adapter_config.json  peft's settings, if the networks are adapters
README.md            the model card
language_model/, network.py, sentence_encoder/    files that some networks are built from, or that read prompts
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from rpg import __version__
from rpg.blocks import Block, Precision
from rpg.config.experiment import Sample
from rpg.config.model import Diffusion, Model
from rpg.generator.onnx_export import unsuited, write_graph
from rpg.generator.onnx_runtime import (
    ADAPTER_CONFIG,
    CONFIG,
    FORMAT,
    GRAPH,
    MAKER,
    TABLE,
    ZOO,
    check_packed,
    read_tree,
)
from rpg.generator.trained import Settings, TrainedRPG
from rpg.model.rpg import TOGETHER
from rpg.tasks.config import TaskConfig
from rpg.tasks.loading import load_prompted
from rpg.tasks.registry import task_blocks
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.manifest import LayoutForm
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import stored
from rpg.utils.artifacts import ListedFile
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.files import (
    file_entry,
    read_json,
    read_tensors,
    write_json,
    write_sealed,
    write_tensors,
    write_text,
)

# Names of the tensors that turn a prompt's images into features.
ENCODER = "encoder."
WEIGHTS, CARD = "model.safetensors", "README.md"
# The folder of a sentence encoder that reads prompts.
SENTENCE_ENCODER = "sentence_encoder"


class PackedConfig(Block):
    """config.json of a packed generator."""

    format: int
    version: Annotated[str, Field(description="version of this library that wrote the folder")]
    name: str
    task: dict[str, Any]
    model: Model
    diffusion: Diffusion
    sample: Sample
    precision: Precision
    layout: LayoutForm
    states: Annotated[int, Field(ge=1, description="S, number of the zoo's training runs")]
    classes: Annotated[list[str] | None, Field(description="names of a task code's bits")]
    in_words: Annotated[bool, Field(description="whether a sentence can name a task")]
    dataset: Annotated[str, Field(description="data set whose classes a sentence names")]
    together: Annotated[int, Field(ge=1, description="tokens of a network whose noise is drawn at once")]
    held_out: Annotated[list[str], Field(description="task codes that RPG never learned from")]
    files: list[ListedFile]


def write_packed(trained: TrainedRPG, folder: Path, card: str, graph: bool = True) -> str | None:
    """Write a trained RPG into `folder`, which must be empty or hold another packed generator; config.json is last.

    `card` is the text of README.md, `graph` whether model.onnx is wanted. Return the reason if it can't be exported.
    Raises UserError for a folder with other files.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    task = trained.task.packed(folder)
    state_dict = {name: tensor.cpu() for name, tensor in trained.model.state_dict().items()}
    write_tensors(folder / WEIGHTS, state_dict)
    table = {f"{TABLE}{name}": values for name, values in trained.table.values.items()}
    seen = trained.image_features.tensors() if trained.encoder else {}
    encoder = {f"{ENCODER}{name}": of for name, of in seen.items()}
    write_tensors(folder / ZOO, trained.tokenizer.tensors() | table | encoder)
    if trained.adapter_config:
        write_json(folder / ADAPTER_CONFIG, trained.adapter_config())
    (folder / GRAPH).unlink(missing_ok=True)
    why_not = unsuited(trained) if graph and not trained.graph else None
    if trained.graph:
        shutil.copy(trained.graph, folder / GRAPH)
    elif graph and not why_not:
        write_graph(trained, folder / GRAPH)
    write_text(folder / CARD, card)
    settings = trained.settings
    config = PackedConfig(
        format=FORMAT,
        version=__version__,
        name=trained.name,
        task=task.model_dump(),
        model=_with_encoder(settings.model, folder),
        diffusion=settings.diffusion,
        sample=settings.sample,
        precision=settings.precision,
        layout=LayoutForm.model_validate(trained.tokenizer.layout.tree()),
        states=trained.states,
        classes=list(task.classes) if task.classes else None,
        in_words=task.in_words,
        dataset=task.dataset,
        together=TOGETHER,
        held_out=list(trained.held_out),
        files=[
            ListedFile(**file_entry(path, folder))
            for path in sorted(folder.rglob("*"))
            # The hub adds .gitattributes, and a card may be edited.
            if path.is_file() and path.name != CARD and not path.name.startswith(".")
        ],
    )
    write_sealed(folder / CONFIG, {**config.model_dump(), "layout": trained.tokenizer.layout.tree()})
    return why_not


def _with_encoder(model: Model, folder: Path) -> Model:
    """Copy the sentence encoder, if RPG's prompts need one, into `folder`; return the block that names it there."""
    if not (model.text and model.text.encoder):
        return model
    shutil.copytree(model.text.encoder, folder / SENTENCE_ENCODER, dirs_exist_ok=True)
    return model.with_encoder(SENTENCE_ENCODER)


def _encoder_in(model: Model, folder: Path) -> Model:
    """Return the block with the path of the sentence encoder that `_with_encoder` wrote into `folder`."""
    return model.with_encoder(str(folder / SENTENCE_ENCODER)) if model.text and model.text.encoder else model


def check_folder(folder: Path) -> None:
    """Raise UserError unless `folder` is new, empty, or holds a packed generator."""
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not _is_packed(folder)):
        raise UserError(f"{folder}: holds other files; name an empty or a new folder")


def _is_packed(folder: Path) -> bool:
    try:
        return "format" in read_json(folder / CONFIG, MAKER)
    except UserError:
        return False


def read_packed(folder: Path) -> TrainedRPG:
    """Load the trained RPG in `folder`; no code in the folder runs.

    Raises UserError if the folder is no packed generator, was changed, or was written by a later version.
    """
    config = read_config(folder)
    check_packed(folder, (file.tree() for file in config.files))
    zoo = read_tensors(folder / ZOO)
    layout = Layout.of_form(config.layout)
    try:
        tokenizer = Tokenizer.of_tensors(layout, zoo, config.states)
        table = ConditionTable(config.model.conditions, _conditions(zoo))
        model = stored(folder / WEIGHTS, config.model, config.diffusion, layout, table.sizes, MAKER)
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder / ZOO}: does not fit {CONFIG} ({error}); run `{MAKER}` again") from error
    task = _task(config, folder)
    adapter: Callable[[], dict[str, Any]] | None = None
    if (folder / ADAPTER_CONFIG).is_file():
        adapter = lambda: task.adapter_tree(read_json(folder / ADAPTER_CONFIG, MAKER))  # noqa: E731
    encoder = {name.removeprefix(ENCODER): of for name, of in zoo.items() if name.startswith(ENCODER)}
    return TrainedRPG(
        config.name,
        task,
        Settings(config.sample, config.precision, _encoder_in(config.model, folder), config.diffusion),
        model.to(device()),
        table,
        tokenizer,
        adapter,
        config.held_out,
        encoder=(lambda: load_prompted(task, None).image_features_of(encoder)) if encoder else None,
        packed=True,
        graph=folder / GRAPH if (folder / GRAPH).is_file() else None,
    )


def read_task(folder: Path) -> TaskConfig:
    """Return the task of the packed generator's networks; UserError as `read_packed` raises it."""
    config = read_config(folder)
    check_packed(folder, (file.tree() for file in config.files))
    task = _task(config, folder)
    if not task.extra:
        raise UserError(f"{folder}: does not hold the code that scores its networks; score them with --experiment")
    return task


def _task(config: PackedConfig, folder: Path) -> TaskConfig:
    return task_blocks()[config.task["kind"]].model_validate(config.task).unpacked(folder)


def read_config(folder: Path) -> PackedConfig:
    """Read config.json in `folder`; UserError as `read_packed` raises it."""
    path, tree = folder / CONFIG, read_tree(folder)
    try:
        config = PackedConfig.model_validate_json(json.dumps(tree))
        task_blocks()[config.task["kind"]].model_validate(config.task)
    except (ValidationError, KeyError) as error:
        why = (
            error.errors(include_input=False, include_url=False)[0]["msg"]
            if isinstance(error, ValidationError)
            else error
        )
        raise UserError(f"{path}: not written by `{MAKER}` ({why})") from error
    return config


def _conditions(zoo: dict[str, Tensor]) -> dict[str, Tensor]:
    values = {name.removeprefix(TABLE): tensor for name, tensor in zoo.items() if name.startswith(TABLE)}
    if not values or len({len(tensor) for tensor in values.values()}) != 1 or any(v.ndim != 2 for v in values.values()):
        raise ValueError("the conditions are missing or of several lengths")
    return {name: tensor.to(torch.float32) for name, tensor in values.items()}
