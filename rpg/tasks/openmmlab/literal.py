"""A config of OpenMMLab as a Python file of literals: mmengine runs such a file, and this module reads it unrun."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from pprint import pformat
from typing import Any

from rpg.utils.errors import UserError
from rpg.utils.files import write_text


def write_literals(config: Any, path: Path) -> None:
    """Write mmengine's `config` with one assignment per key."""
    lines = [f"{key} = {pformat(value, width=110, sort_dicts=False)}\n" for key, value in config.to_dict().items()]
    write_text(path, "".join(lines))


def read_literals(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file that `write_literals` wrote, without running it.

    Raises UserError if the file holds anything but assignments of literals, and if a `type` is not a class that the
    toolboxes have registered: mmengine would import any other name and call it.
    """
    try:
        tree = {}
        for statement in ast.parse(path.read_bytes()).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=key)], value=value):
                    tree[key] = ast.literal_eval(value)
                case _:
                    raise ValueError(f"line {statement.lineno} is no assignment")
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise UserError(f"{path}: must hold assignments of literals alone ({error})") from error
    if "custom_imports" in tree:
        raise UserError(f"{path}: custom_imports: the network needs modules that the folder does not hold")
    known = _registered()
    for name in types_in(tree):
        if not re.fullmatch(r"(\w+\.)?\w+", name) or name.rpartition(".")[2] not in known:
            raise UserError(f"{path}: type '{str(name)[:80]}': no class of OpenMMLab's toolboxes")
    return tree


def types_in(tree: Any) -> Iterator[str]:
    """Yield the values of all keys `type` in a nest of dictionaries and sequences."""
    if isinstance(tree, dict):
        if "type" in tree:
            yield str(tree["type"])
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return
    for value in tree:
        yield from types_in(value)


def _registered() -> set[str]:
    """Return the names of all classes in mmengine's registries and those of the imported toolboxes.

    mmdet looks for the layers of regions, such as RoIAlign, in mmcv.ops. mmcv evaluates the name of a suppression.
    """
    from mmcv import ops
    from mmengine import registry
    from torch import nn

    pending = [one for one in vars(registry).values() if isinstance(one, registry.Registry)]
    known = {name for name, of in vars(ops).items() if isinstance(of, type) and issubclass(of, nn.Module)}
    known |= {"nms", "soft_nms"}
    while pending:
        one = pending.pop()
        known |= one.module_dict.keys()
        pending += one.children.values()
    return known
