"""Add an experiment to params.yaml without a change of any other line."""

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from rpg.blocks import PARAMS_FILE
from rpg.config.loading import check_params, load_params
from rpg.config.params import Params
from rpg.init.rules import PRESET
from rpg.utils.errors import UserError
from rpg.utils.files import write_text


def experiment_lines(name: str, experiment: Mapping[str, Any], comment: str) -> list[str]:
    """Return the lines of an experiment, one for each block."""
    lines = [f"  # {comment}", f"  {name}:"]
    for key, value in experiment.items():
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
        # PyYAML ends a document of one word with a line of dots.
        lines.append(f"    {key}: {text.splitlines()[0]}")
    return lines


def check_name(name: str, path: Path = PARAMS_FILE) -> Params:
    """Return the content of params.yaml; UserError if the name is taken, or without the preset of new experiments."""
    params = load_params(path)
    presets = yaml.safe_load(path.read_bytes()).get("presets", {})
    for block, names in (("experiments", params.experiments), ("ablations", params.ablations), ("presets", presets)):
        if name in names:
            raise UserError(f"{path}: {block}.{name} is there already; choose another name")
    if PRESET not in presets:
        raise UserError(f"{path}: presets.{PRESET}: missing; copy it from the params.yaml of RPG's repository")
    return params


def added(text: str, lines: list[str], path: Path = PARAMS_FILE) -> str:
    """Return the text of params.yaml with the lines at the end of the block `experiments`.

    Raises UserError if the block is not written line by line, or if the new content is not valid.
    """
    old = text.split("\n")
    start = next((number for number, line in enumerate(old) if re.fullmatch(r"experiments:\s*(#.*)?", line)), None)
    if start is None:
        raise UserError(f"{path}: experiments: must be a block of lines, so that `rpg init` can add one")
    end = next((number for number in range(start + 1, len(old)) if re.match(r"[^\s#]", old[number])), len(old))
    # Comments and empty lines before the next block belong to it.
    while end > start + 1 and re.fullmatch(r"(#.*|\s*)", old[end - 1]):
        end -= 1
    # A block may be indented by more than two spaces.
    indent = next((found[0] for line in old[start + 1 : end] if (found := re.match(r" +(?=[^\s#])", line))), "  ")
    new = "\n".join([*old[:end], "", *(f"{indent}{line[2:]}" for line in lines), *old[end:]])
    try:
        tree = yaml.safe_load(new)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: experiments: can't take one more; indent its names alike ({error})") from error
    check_params(tree, path)
    return new


def add_experiment(name: str, experiment: Mapping[str, Any], comment: str, path: Path = PARAMS_FILE) -> list[str]:
    """Write the experiment into params.yaml; return its lines. Raises UserError as `added` does."""
    lines = experiment_lines(name, experiment, comment)
    # As bytes, because the lines of the file may end as those of Windows.
    write_text(path, added(path.read_bytes().decode("utf-8"), lines, path))
    return lines


def make_folder(folder: Path, undo: ExitStack) -> None:
    """Make a folder, which `undo` removes with its files; UserError if it is there, since its files are not ours."""
    if folder.exists():
        raise UserError(f"{folder}: is there already; move it, or choose another name")
    if not folder.parent.exists():
        folder.parent.mkdir()
        undo.callback(folder.parent.rmdir)
    folder.mkdir()
    undo.callback(shutil.rmtree, folder)
