"""Reading params.yaml: the only reader of the file.

Every scientific choice stands in params.yaml; no block has a default, so the file can be read without this code. The
JSON schema in workflow/schemas/ is that of the classes of rpg.config and of the benchmarks.
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
from rpg.tasks.registry import task_blocks
from rpg.utils.errors import UserError, suggestion

# DVC leaves keys of these names out of its run-cache, so it would bring back old results after a change to one.
FORBIDDEN_KEYS = ("size", "nfiles")


# Characters and values that the file may have with its aliases written out, which can be many more than stand in it.
MOST_WRITTEN_OUT = 10_000_000


# Keys that one block may inherit by merges (`<<`).
MOST_MERGED = 10_000


class _OneKeyLoader(yaml.CSafeLoader):
    """YAML as PyYAML reads it, except that a key may not stand twice in one mapping: the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        for name, count in names.items():
            if count > 1 and id(node) not in self.merged:
                raise yaml.YAMLError(f"the key '{name}' stands twice in one block, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # A merge (`<<`) puts inherited keys before the block's own, which then go first: no fault.
        if any(isinstance(key, yaml.ScalarNode) and key.value == "<<" for key, _ in node.value):
            self.merged.add(id(node))
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise yaml.YAMLError(f"too many merged keys in one block, line {node.start_mark.line + 1}")

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.merged: set[int] = set()


# A float without a point, 1e-5, is YAML 1.2; `dvc exp run -S` writes it, and PyYAML reads YAML 1.1.
_OneKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; UserError with one line for the first fault found."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run rpg in the folder that holds params.yaml") from error
    try:
        tree = yaml.load(text, _OneKeyLoader)
        if _written_out(tree, {}) > MOST_WRITTEN_OUT:
            raise yaml.YAMLError("too many aliases (`*`) of aliases")
        return check_params(tree, path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def check_params(tree: Any, path: Path = PARAMS_FILE) -> Params:
    """Params from the parsed YAML `tree`; `path` only names the file in errors."""
    if not isinstance(tree, dict):
        raise UserError(f"{path}: the top level must be a mapping with the keys {', '.join(Params.model_fields)}")
    _refuse_unusual(tree, path)
    resolved = merged(tree, path)
    if _written_out(resolved, {}) > MOST_WRITTEN_OUT:
        raise UserError(f"{path}: experiments: they inherit too much by `extends`; remove some of it")
    try:
        # Through JSON: pydantic's strict mode then takes YAML's own types and nothing else.
        params = Params.model_validate_json(json.dumps(resolved))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {_first_fault(error, resolved, tree)}") from error
    return params.covering(params.run, str(path))


def _written_out(node: Any, known: dict[int, int]) -> int:
    """Characters and values of a tree, those of an alias as often as it stands there; `known`: id of a block → its."""
    if not isinstance(node, (dict, list)):
        return 1 + (len(node) if isinstance(node, (str, bytes)) else 0)
    if id(node) not in known:
        # Of a block within itself, which later is refused by what it is.
        known[id(node)] = 1
        parts = [*node, *node.values()] if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def json_schema() -> str:
    """JSON schema of params.yaml, as workflow/schemas/params.schema.json holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _refuse_unusual(tree: Any, path: Path, where: str = "") -> None:
    """UserError for a key that DVC ignores, and for a value that YAML knows and JSON does not."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key in FORBIDDEN_KEYS:
            raise UserError(
                f"{path}: {where}{key}: no key may be called '{key}' (DVC's run-cache ignores it); choose another name"
            )
        if isinstance(value, (dict, list)):
            _refuse_unusual(value, path, f"{where}{key}.")
        elif not (value is None or isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value))):
            text = str(value)[:60]
            raise UserError(f"{path}: {where}{key}: {text} can't stand here; write a finite number, or text in quotes")


def _unknown_kind(experiment: Any) -> str:
    """What is wrong with the `task.kind` of an experiment, which no benchmark has."""
    task = experiment.get("task") if isinstance(experiment, dict) else None
    if not isinstance(task, dict) or "kind" not in task:
        return f"missing; known: {', '.join(task_blocks())}"
    return f"no benchmark '{str(task['kind'])[:60]}'{suggestion(str(task['kind']), task_blocks())}"


def _first_fault(error: Exception, resolved: dict[str, Any], tree: dict[str, Any]) -> str:
    """The first fault of the `resolved` experiments, in words; `tree` is what the file holds."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    faults = error.errors()
    fault = faults[0]
    where: list[str] = []
    node: Any = resolved
    for step in fault["loc"]:
        # pydantic names the kind of a union as one more step; it is no key of the file.
        absent = step == "[key]" or (fault["type"] == "missing" and step == fault["loc"][-1])
        if isinstance(node, dict) and step not in node and not absent:
            continue
        where.append(str(step))
        # Of a name that is refused pydantic says `[key]`, in place of what stands below it.
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
    # The check of a block names the key itself.
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return ".".join([*where, message]) + source
    return f"{key}: {message}, not {json.dumps(fault['input'])[:60]}{source}"
