"""The score of one network in a file: `rpg score --weights new.safetensors`."""

from pathlib import Path

import torch

from rpg.evaluation.distance import refer_to_zoo
from rpg.tasks.adapters import WEIGHTS as ADAPTER_FILE
from rpg.tasks.config import TaskConfig
from rpg.tasks.loading import load_task
from rpg.utils.errors import UserError, one_line
from rpg.utils.files import read_metadata, read_tensors


def score_file(
    params: TaskConfig, weights: Path, code: str | None, data_root: str | None, tokens: Path | None = None
) -> str:
    """Return one line with the score of the state dict in `weights` on the test split, in the task of `code` if any.

    `weights` is a file, or the folder of an adapter. Networks that no function scores have a distance from the zoo,
    whose tokens are in the folder `tokens`. Raises UserError if the weights do not fit, if there are task codes and
    neither `code` nor the file names one, or if the tokens are missing.
    """
    task = load_task(params, data_root)
    if not params.has_score and tokens:
        refer_to_zoo(task, tokens, None)
    file = weights / ADAPTER_FILE if weights.is_dir() else weights
    state_dict = read_tensors(file)
    # Files from `rpg generate` name their task.
    code = code or read_metadata(file, "task_code")
    if code is None and params.has_codes:
        option = "--code with the name of a task" if params.task_names else "--classes or --code"
        raise UserError(f"{weights}: names no task; add {option}")
    for name, tensor in state_dict.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights}: tensor '{name}' holds NaN or Inf")
    score = params.metric_kind.with_unit(task.score(state_dict, "test", code))
    return one_line(f"{weights}: {task.metric} {score}")
