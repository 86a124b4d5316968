"""Zoos in one array: a row of weights for each network, as published zoos keep thousands of small networks."""

import csv
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpg.tasks.custom.facts import CHECKPOINT, cells_of
from rpg.tasks.custom.reading import checkpoint_tree, is_checkpoint
from rpg.tasks.stack import StateDict
from rpg.utils.errors import UserError
from rpg.utils.files import write_tensors, write_text

ARRAYS = (".npy", ".npz")
# The name of the only tensor of a network whose tensors are unknown.
WEIGHTS = "weights"


def read_array(path: Path) -> Tensor | None:
    """Return the array [networks, weights] in a file; None if the file holds something else, as a checkpoint does.

    Raises UserError if the file can't be read, or if a file of NumPy has no such array. No pickled objects are read.
    """
    if not path.is_file() or not (path.suffix in ARRAYS or is_checkpoint(path)):
        return None
    content: Any
    if path.suffix in ARRAYS:
        try:
            loaded = np.load(path, allow_pickle=False)
            content = loaded if isinstance(loaded, np.ndarray) else dict(loaded)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: can't be read ({error}); save the array by numpy.save") from error
    else:
        content = checkpoint_tree(path)
    if isinstance(content, dict):
        content = next(iter(content.values())) if len(content) == 1 else None
    if isinstance(content, np.ndarray) and content.dtype.kind == "f" and content.itemsize <= 8:
        # torch knows the byte order of this machine alone.
        content = torch.from_numpy(np.ascontiguousarray(content.astype(content.dtype.newbyteorder("="))))
    found = isinstance(content, Tensor) and content.ndim == 2 and content.is_floating_point() and len(content) > 1
    if not found and path.suffix in ARRAYS:
        raise UserError(f"{path}: holds no single array [networks, weights] of floats with two rows or more")
    return content if found else None


def split_row(row: Tensor, network: nn.Module | None) -> StateDict:
    """Return the state dict of a row [weights], in the order of torch's `parameters_to_vector`.

    A network's buffers are those of `network`. Without a network the row is one tensor.
    """
    if network is None:
        return {WEIGHTS: row.clone()}
    state_dict = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parts = row.split([parameter.numel() for parameter in network.parameters()])
    for (name, parameter), part in zip(network.named_parameters(), parts, strict=True):
        state_dict[name] = part.reshape(parameter.shape).clone()
    return state_dict


def write_rows(path: Path, array: Tensor, network: nn.Module | None, folder: Path) -> list[Path]:
    """Write each row of the array [networks, weights] of the file `path` as folder/<row>.safetensors.

    Raises UserError if the rows do not have as many weights as the network has parameters, or if one is not finite.
    """
    count = sum(parameter.numel() for parameter in network.parameters()) if network else array.shape[1]
    if array.shape[1] != count:
        raise UserError(
            f"{path}: a row has {array.shape[1]} weights, but the network of --build has {count} parameters"
        )
    faulty = (~torch.isfinite(array)).any(1).nonzero().flatten().tolist()
    if faulty:
        raise UserError(f"{path}: row {faulty[0]} holds NaN or Inf; remove the row")
    paths = [folder / f"{row:05d}.safetensors" for row in range(len(array))]
    for target, row in zip(paths, array, strict=True):
        write_tensors(target, split_row(row, network))
    return paths


def with_checkpoints(table: Path, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of a table of facts, in the order of the array's rows, with the column `checkpoint`.

    Raises UserError if the table has another number of rows.
    """
    _, cells = cells_of(table)
    rows: list[Mapping[str, Any]] = list(cells.values())
    if len(rows) != len(paths):
        raise UserError(f"{table}: has {len(rows)} rows, but the array has {len(paths)}")
    # A row's place tells its network, whatever the table calls it.
    return [{**{CHECKPOINT: ""}, **row, CHECKPOINT: str(path)} for row, path in zip(rows, paths, strict=True)]


def write_facts(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of facts as a .csv table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
