"""A trained RPG on disk: model.safetensors, config.json and log.csv."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from rpg.blocks import Block
from rpg.config.model import Diffusion, Model
from rpg.model.backbones import TokenPositions
from rpg.model.conditions import Vector
from rpg.model.rpg import RPG
from rpg.tokenizer.descriptors import descriptors
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.utils.errors import UserError
from rpg.utils.files import (
    check_unchanged,
    file_entry,
    read_sealed,
    read_tensors,
    write_sealed,
    write_tensors,
    write_text,
)


class File(Block):
    """A file with the SHA-256 that another file lists."""

    file: Annotated[str, Field(description="path relative to the folder of the listing file")]
    sha256: str


Trained = TypeVar("Trained", bound=nn.Module)


class ModelConfig(Block):
    """rpg/config.json: all that is needed to rebuild a trained RPG without params.yaml."""

    model: Model
    diffusion: Diffusion
    width: Annotated[int, Field(description="D")]
    length: Annotated[int, Field(description="L")]
    parameters: int
    tokens: Annotated[str, Field(description="SHA-256 of layout.json of the training tokens")]
    files: Annotated[list[File], Field(description="the other files in this folder")]


def build(model: Model, diffusion: Diffusion, store: TokenStore) -> RPG:
    """Build an untrained RPG for the tokens in `store`; UserError if the model's widths do not fit together."""
    return assemble(model, diffusion, store.layout, ConditionTable.of(model.conditions, store).sizes)


def assemble(model: Model, diffusion: Diffusion, layout: Layout, sizes: Mapping[str, int]) -> RPG:
    """Build an untrained RPG for the tokens of `layout`; `sizes` maps each condition to its number of values.

    Raises UserError if the model's widths do not fit together.
    """
    try:
        return RPG(
            model,
            TokenPositions(layout.positions(), layout.head(), descriptors(layout)),
            width=layout.width,
            sizes=sizes,
            target=diffusion.target,
        )
    except ValueError as error:
        raise UserError(f"params.yaml: model: {error}") from error


def fresh(model: Model, diffusion: Diffusion, store: TokenStore) -> RPG:
    """Build an RPG as a training starts it: `build`, with the statistics of vectors and tokens that the model needs."""
    table = ConditionTable.of(model.conditions, store)
    rpg = assemble(model, diffusion, store.layout, table.sizes)
    for name, condition in rpg.recurrent.conditions.named():
        if isinstance(condition, Vector):
            condition.standardize(table.values[name])
    if rpg.mean is not None and rpg.spread is not None:
        # A checkpoint's row of the means: its state's, or the only one.
        rows = [store.state(checkpoint) % len(rpg.mean) for checkpoint in store.checkpoints]
        # Two passes over the checkpoints, because a zoo may not fit into memory.
        total_SLD = torch.zeros(rpg.mean.shape, dtype=torch.float64)
        for index, row in enumerate(rows):
            total_SLD[row] += store[index].nan_to_num(0.0)
        counts_S = torch.tensor(rows).bincount(minlength=len(rpg.mean)).clamp(min=1)
        rpg.mean.copy_(total_SLD / counts_S.view(-1, 1, 1))
        squares_L = torch.zeros(rpg.length, dtype=torch.float64)
        for index, row in enumerate(rows):
            squares_L += (store[index] - rpg.mean[row]).double().square().nansum(1)
        weights_L = len(store) * (~store.layout.padding()).sum(1)
        for tensor in store.layout.tokenized:
            of_tensor = slice(tensor.first, tensor.first + tensor.tokens)
            rpg.spread[of_tensor] = (squares_L[of_tensor].sum() / weights_L[of_tensor].sum()).sqrt().float()
    return rpg


def write_model(
    folder: Path,
    state_dict: dict[str, Tensor],
    parameters: int,
    log: str,
    model: Model,
    diffusion: Diffusion,
    store: TokenStore,
) -> None:
    """Write a trained RPG, its log and, last, config.json with the model's blocks and the SHA-256 of both files."""
    write_tensors(folder / "model.safetensors", state_dict)
    write_text(folder / "log.csv", log)
    config = ModelConfig(
        model=model,
        diffusion=diffusion,
        width=store.layout.width,
        length=store.layout.length,
        parameters=parameters,
        tokens=store.sha256,
        files=[File(**file_entry(folder / name)) for name in ("log.csv", "model.safetensors")],
    )
    write_sealed(folder / "config.json", config.model_dump())


def read_config(folder: Path) -> ModelConfig:
    """Read config.json in `folder`; UserError if the file is missing or damaged."""
    path = folder / "config.json"
    try:
        return ModelConfig.model_validate_json(json.dumps(read_sealed(path, maker(folder))))
    except ValueError as error:
        raise UserError(f"{path}: not written by this version; run `{maker(folder)}` again") from error


def maker(folder: Path) -> str:
    """Return the command that writes the model in `folder`."""
    return "rpg train" if folder.name == "rpg" else f"rpg {folder.name}"


def load_rpg(folder: Path, store: TokenStore, on: torch.device) -> RPG:
    """Load the trained RPG in `folder`, for sampling.

    Raises UserError if it is missing, damaged or trained on other tokens, or if another generator is in its place.
    """
    config, path, table = verified(folder, store)
    if config.model.generator:
        raise UserError(f"{folder}: holds another generator in RPG's place; this command needs RPG")
    return stored(path, config.model, config.diffusion, store.layout, table.sizes, maker(folder)).to(on)


def verified(folder: Path, store: TokenStore) -> tuple[ModelConfig, Path, ConditionTable]:
    """Return config.json of what is trained in `folder`, the path of its weights, and its conditions.

    Raises UserError if it is missing, damaged or trained on other tokens.
    """
    config = read_config(folder)
    if config.tokens != store.sha256:
        raise UserError(f"{folder}: trained on tokens of another zoo; run `{maker(folder)}` again")
    path = folder / "model.safetensors"
    expected = {entry.file: entry.sha256 for entry in config.files}
    check_unchanged(folder, path.name, expected.get(path.name, ""), "trained", f"`{maker(folder)}`")
    return config, path, ConditionTable.of(config.model.conditions, store)


def stored(
    path: Path, model: Model, diffusion: Diffusion, layout: Layout, sizes: Mapping[str, int], command: str
) -> RPG:
    """Return `assemble` in evaluation mode with the weights in `path`; UserError names `command` if they do not fit."""
    check_sizes(path, model, command)
    return filled(assemble(model, diffusion, layout, sizes), path, command)


def check_sizes(path: Path, model: Model, command: str) -> None:
    """Raise UserError, which names `command`, if the weights in `path` are too few for a model with such widths."""
    # No valid width or number of blocks exceeds the weights' bytes. A model with larger numbers might never be built.
    if _largest(model.model_dump()) > path.stat().st_size:
        raise _unfit(path, command)


def filled(model: Trained, path: Path, command: str) -> Trained:
    """Load the weights in `path` into a model in evaluation mode; UserError if they do not fit."""
    try:
        model.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise _unfit(path, command) from error
    return model.eval()


def _unfit(path: Path, command: str) -> UserError:
    return UserError(f"{path}: does not fit config.json in the same folder; run `{command}` again")


def _largest(tree: Any) -> float:
    """Return the largest number in a tree."""
    if isinstance(tree, dict | list | tuple):
        return max((_largest(value) for value in (tree.values() if isinstance(tree, dict) else tree)), default=0)
    return tree if isinstance(tree, int | float) else 0
