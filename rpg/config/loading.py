"""Load params.yaml. No other module reads the file.

params.yaml holds every scientific choice. Blocks have no defaults, so a reader needs no code to know all values.
workflow/schemas/ holds the JSON schema of the classes in rpg.config and in the benchmarks' config.py.
"""

import difflib
import json
import re
from collections import Counter
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from rpg.blocks import PARAMS_FILE
from rpg.config.params import Params, message_of
from rpg.config.presets import merged, origin
from rpg.sources import check_checkout
from rpg.tasks.registry import task_blocks
from rpg.utils.errors import UserError, suggestion

# DVC's run-cache ignores keys with these names, so it would restore old results after a change of such a key.
FORBIDDEN_KEYS = ("size", "nfiles")


# Maximum number of characters and values after YAML expands its aliases: a small file can expand to a huge tree.
MAX_EXPANDED = 10_000_000


# Maximum number of keys that one block may inherit by merges (`<<`).
MAX_MERGED = 10_000


class _OneKeyLoader(yaml.CSafeLoader):
    """PyYAML's loader that refuses a duplicate key. PyYAML itself silently keeps the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        for name, count in names.items():
            if count > 1 and id(node) not in self.merged:
                raise yaml.YAMLError(f"duplicate key '{name}' in one block, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A merge (`<<`) may repeat a key on purpose: the block's own value replaces the inherited value.
        if any(isinstance(key, yaml.ScalarNode) and key.value == "<<" for key, _ in node.value):
            self.merged.add(id(node))
        super().flatten_mapping(node)
        if len(node.value) > MAX_MERGED:
            raise yaml.YAMLError(f"too many merged keys in one block, line {node.start_mark.line + 1}")

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.merged: set[int] = set()


# PyYAML reads YAML 1.1, where 1e-5 is text. `dvc exp run -S` writes such floats, which are valid in YAML 1.2.
_OneKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate params.yaml.

    Raises UserError with one line about the first fault, or if the code that runs is another checkout's.
    """
    check_checkout()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run rpg in the folder that holds params.yaml") from error
    try:
        tree = yaml.load(text, _OneKeyLoader)
        if _expanded_length(tree, {}) > MAX_EXPANDED:
            raise yaml.YAMLError("too many aliases (`*`) of aliases")
        return check_params(tree, path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def check_params(tree: Any, path: Path = PARAMS_FILE) -> Params:
    """Return Params from the parsed YAML `tree`; `path` names the file in errors."""
    if not isinstance(tree, dict):
        raise UserError(f"{path}: the top level must be a mapping with the keys {', '.join(Params.model_fields)}")
    _refuse_unusual(tree, path)
    resolved = merged(tree, path)
    if _expanded_length(resolved, {}) > MAX_EXPANDED:
        raise UserError(f"{path}: experiments: `extends` inherits too much; remove some parents")
    try:
        # In strict mode pydantic accepts exactly the JSON types, which YAML shares.
        params = Params.model_validate_json(json.dumps(resolved))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {_first_fault(error, resolved, tree)}") from error
    return params.covering(params.run, str(path))


def _expanded_length(node: Any, known: dict[int, int]) -> int:
    """Count the characters and values of a tree, each alias in full. `known`: id of a block → its count."""
    if not isinstance(node, (dict, list)):
        return 1 + (len(node) if isinstance(node, (str, bytes)) else 0)
    if id(node) not in known:
        # A block may contain itself; validation refuses that block later.
        known[id(node)] = 1
        parts = [*node, *node.values()] if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_expanded_length(part, known) for part in parts)
    return known[id(node)]


def json_schema() -> str:
    """Return the JSON schema of params.yaml, the content of workflow/schemas/params.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _refuse_unusual(tree: Any, path: Path, where: str = "") -> None:
    """Raise UserError for a key that DVC ignores and for a YAML value that JSON lacks."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key in FORBIDDEN_KEYS:
            raise UserError(
                f"{path}: {where}{key}: the key '{key}' is not allowed, because DVC's run-cache ignores it;"
                " choose another name"
            )
        if isinstance(value, (dict, list)):
            _refuse_unusual(value, path, f"{where}{key}.")
        elif not (value is None or isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value))):
            text = str(value)[:60]
            raise UserError(
                f"{path}: {where}{key}: {text} is not a valid value; write a finite number, or text in quotes"
            )


def _unknown_kind(experiment: Any) -> str:
    """Describe a missing or unknown `task.kind`."""
    task = experiment.get("task") if isinstance(experiment, dict) else None
    if not isinstance(task, dict) or "kind" not in task:
        return f"missing; known: {', '.join(task_blocks())}"
    return f"no benchmark '{str(task['kind'])[:60]}'{suggestion(str(task['kind']), task_blocks())}"


def _first_fault(error: Exception, resolved: dict[str, Any], tree: dict[str, Any]) -> str:
    """Describe the first validation fault in one line.

    `resolved` are the experiments after merging; `tree` is the content of the file.
    """
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    faults = error.errors()
    fault = faults[0]
    where: list[str] = []
    node: Any = resolved
    for step in fault["loc"]:
        # pydantic adds the kind of a union as a step; the file has no such key.
        absent = step == "[key]" or (fault["type"] == "missing" and step == fault["loc"][-1])
        if isinstance(node, dict) and step not in node and not absent:
            continue
        where.append(str(step))
        # For a refused key pydantic gives `[key]` as the next step, so the walk stops there.
        below = isinstance(node, dict) or (isinstance(node, list) and isinstance(step, int) and step < len(node))
        node = (node.get(step) if isinstance(node, dict) else node[step]) if below else None
    key = ".".join(where)
    parent = origin(tree, where[1], where[2:]) if where[:1] == ["experiments"] and len(where) > 2 else None
    source = f" (from {parent})" if parent else ""
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{source}"
    if fault["type"] == "missing":
        unknown = [str(other["loc"][-1]) for other in faults if other["type"] == "extra_forbidden"]
        meant = difflib.get_close_matches(where[-1], unknown, 1)
        return f"{key}: missing" + (f"; is '{meant[0]}' meant?" if meant else "")
    if (
        fault["type"] in ("union_tag_invalid", "union_tag_not_found")
        and where[:1] == ["experiments"]
        and len(where) == 2
    ):
        return f"{key}.task.kind: {_unknown_kind(node)}"
    message = message_of(fault)
    if fault["type"] == "json_invalid":
        return f"cannot be read ({message})"
    # A block's own validator already names the key.
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return ".".join([*where, message]) + source
    return f"{key}: {message}, not {json.dumps(fault['input'])[:60]}{source}"
