"""The registry of benchmarks: each folder of rpg/tasks/ with a config.py is a benchmark."""

import importlib
import pkgutil
from functools import cache
from typing import get_args

import rpg.tasks
from rpg.tasks.config import TaskConfig


@cache
def task_blocks() -> dict[str, type[TaskConfig]]:
    """Return `task.kind` → class of the task block, sorted by name."""
    blocks: dict[str, type[TaskConfig]] = {}
    for module in pkgutil.iter_modules(rpg.tasks.__path__):
        if module.ispkg:
            config = importlib.import_module(f"rpg.tasks.{module.name}.config")
            for block in vars(config).values():
                if isinstance(block, type) and issubclass(block, TaskConfig) and block.__module__ == config.__name__:
                    for kind in get_args(block.model_fields["kind"].annotation) if "kind" in block.model_fields else ():
                        blocks[kind] = block
    return dict(sorted(blocks.items()))
