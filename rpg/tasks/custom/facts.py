"""A user's own facts on each checkpoint, such as its learning rate or its class: the table `zoo.facts`.

A .csv file has the column `checkpoint` and a column for each fact. A .json file is a list of such rows. A column of
numbers gives each checkpoint a number. A column of texts gives each checkpoint a list with 1 at the place of its text
among all texts of the column, in natural order, and 0 elsewhere.
"""

import csv
import io
import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from rpg.tasks.custom.runs import natural
from rpg.utils.errors import UserError

CHECKPOINT = "checkpoint"
# A manifest's own keys of a checkpoint, and the names of conditions that are no vectors.
RESERVED = frozenset(
    [
        "file", "sha256", "seed", "step", "held_out", "code", "permutation_state", "task_code", "images", "text",
        "unconditional",
    ]
)  # fmt: skip
NAME = re.compile(r"\w[\w .-]*")
# A column of more different texts is a name or a note, no class.
MOST_CLASSES = 64
# The largest number of float32, in which a model reads conditions.
LARGEST = 3.4e38

# A number, or 0 and 1 for each class.
Fact = float | list[float]


@dataclass(frozen=True)
class Row:
    """A row of the table: its `place` in the file, as "line 3", the `checkpoint` as written, and name → fact."""

    place: str
    checkpoint: str
    facts: dict[str, Fact]


@dataclass(frozen=True)
class Facts:
    """The table's `names` of facts, its `rows` by the absolute path of their checkpoint, and text column → classes."""

    path: Path
    names: list[str]
    rows: dict[str, Row]
    classes: dict[str, list[str]] = field(default_factory=dict)

    def of_run(self, run: Sequence[str], checkpoints: Sequence[Path]) -> dict[Path, dict[str, Fact]]:
        """Return checkpoint → its facts, for all `checkpoints` that have a row; `run` are the run's files and folders.

        A row names a checkpoint by its path, or by its folder if the folder has no other checkpoint. Raises UserError
        that names the row if two rows are for one checkpoint, or if a row in the run's folder is for no checkpoint.
        """
        found: dict[Path, Row] = {}
        within = chain.from_iterable(self._below.get(os.path.abspath(entry), ()) for entry in run)
        left = {path: self.rows[path] for path in within}
        parents = [path.parent for path in checkpoints]
        for path in checkpoints:
            names = [path, path.parent] if parents.count(path.parent) == 1 else [path]
            for name in names:
                row = left.pop(os.path.abspath(name), None)
                if row and path in found:
                    fault = f"{row.checkpoint} is the checkpoint of {found[path].place}, too; remove one"
                    raise UserError(f"{self.path}: {row.place}: {fault}")
                if row:
                    found[path] = row
        for row in left.values():
            fault = f"'{row.checkpoint}' is no checkpoint of the run {', '.join(run)[:200]}; correct or remove the row"
            raise UserError(f"{self.path}: {row.place}: {fault}")
        return {path: row.facts for path, row in found.items()}

    @cached_property
    def _below(self) -> dict[str, list[str]]:
        """A file or folder → the paths of the rows that are it or below it: a zoo may have thousands of runs."""
        below: dict[str, list[str]] = {}
        for path in self.rows:
            for one in (path, *map(str, Path(path).parents)):
                below.setdefault(one, []).append(path)
        return below

    def lacks(self, checkpoint: Path) -> UserError:
        """Return the error that a checkpoint has no row."""
        return UserError(f"{self.path}: no row for the checkpoint {checkpoint}; add one")

    def check_runs(self, runs: Collection[str]) -> None:
        """Raise UserError that names the row if a row is for a checkpoint of none of the runs."""
        folders = {os.path.abspath(run) for run in runs}
        for path, row in self.rows.items():
            if not _within(path, folders):
                fault = f"'{row.checkpoint}' is in no run of zoo.runs; correct or remove the row"
                raise UserError(f"{self.path}: {row.place}: {fault}")


def _within(path: str, folders: Collection[str]) -> bool:
    return any(str(one) in folders for one in (path, *Path(path).parents))


def read_facts(path: Path, reserved: Collection[str]) -> Facts:
    """Read the table `path`; the names in `reserved` and RESERVED can't be names of facts.

    Raises UserError that names the file and the row or the column if the table can't be used.
    """
    columns, cells = cells_of(path)
    if CHECKPOINT not in columns or len(columns) < 2:
        raise UserError(f"{path}: needs the column '{CHECKPOINT}' and a column for each fact")
    names = [column for column in columns if column != CHECKPOINT]
    for name in names:
        if name in RESERVED or name in reserved:
            raise UserError(f"{path}: column '{name}': a checkpoint has a key of this name already; rename the column")
        if not NAME.fullmatch(name):
            raise UserError(f"{path}: column '{name}': a name has letters, digits, spaces, and _ . - only; rename it")
    rows: dict[str, Row] = {}
    for place, row in cells.items():
        checkpoint = row[CHECKPOINT]
        if not isinstance(checkpoint, str) or not checkpoint:
            raise UserError(f"{path}: {place}: column '{CHECKPOINT}' must be a path")
        if before := rows.get(key := os.path.abspath(checkpoint)):
            raise UserError(f"{path}: {place}: '{checkpoint}' has a row in {before.place} already; remove one")
        rows[key] = Row(place, checkpoint, {})
    classes = {}
    for name in names:
        values, known = _column(path, name, {place: row[name] for place, row in cells.items()})
        if known:
            classes[name] = known
        for own in rows.values():
            own.facts[name] = values[own.place]
    return Facts(path, names, rows, classes)


def _column(path: Path, name: str, cells: dict[str, Any]) -> tuple[dict[str, Fact], list[str]]:
    """Return place → fact of a column, and the classes of a column of texts."""
    for place, cell in cells.items():
        where = f"{path}: {place}: column '{name}'"
        if cell is None or cell == "":
            raise UserError(f"{where} has no value; fill it in")
        if not isinstance(cell, str | int | float):
            raise UserError(f"{where} must be a number or a text, not {str(cell)[:60]}")
        if not isinstance(cell, str) and not abs(cell) <= LARGEST:
            raise UserError(f"{where} must be a finite number, not {cell}")
    texts = {place: cell for place, cell in cells.items() if isinstance(cell, str)}
    if not texts:
        return {place: float(cell) for place, cell in cells.items()}, []
    if len(texts) < len(cells):
        place, cell = next(iter(texts.items()))
        raise UserError(f"{path}: {place}: column '{name}' has numbers, but '{cell[:60]}' is none")
    known = sorted(set(texts.values()), key=natural)
    if len(known) > MOST_CLASSES:
        raise UserError(
            f"{path}: column '{name}' has {len(known)} different texts, more than {MOST_CLASSES} classes;"
            " write numbers, or remove the column"
        )
    return {place: [float(cell == one) for one in known] for place, cell in texts.items()}, known


# The columns, and the place of each row → column → cell.
Cells = tuple[list[str], dict[str, dict[str, Any]]]


def cells_of(path: Path) -> Cells:
    """Return the cells of a .csv or .json table; UserError if it can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); correct zoo.facts in params.yaml") from error
    return (_json_cells if path.suffix == ".json" else _csv_cells)(path, text)


def _csv_cells(path: Path, text: str) -> Cells:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    cells: dict[str, dict[str, Any]] = {}
    columns: list[str] = []
    try:
        for row in reader:
            values = [value.strip() for value in row]
            if not any(values):
                continue
            if not columns:
                columns = values
                if twice := next((name for name in columns if columns.count(name) > 1), None):
                    raise UserError(f"{path}: column '{twice}' is there twice; remove one")
                continue
            place = f"line {reader.line_num}"
            if len(values) != len(columns):
                raise UserError(f"{path}: {place}: has {len(values)} columns, but the first line has {len(columns)}")
            cells[place] = {
                column: value if column == CHECKPOINT else _cell(value)
                for column, value in zip(columns, values, strict=True)
            }
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: not CSV ({error})") from error
    return columns, cells


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _json_cells(path: Path, text: str) -> Cells:
    try:
        tree = json.loads(text, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(tree, list) or not tree or not all(isinstance(row, dict) for row in tree):
        raise UserError(f'{path}: must be a list of rows, such as [{{"checkpoint": "zoo/a/1.pth", "rate": 0.1}}]')
    columns = list(tree[0])
    cells = {f"row {index}": row for index, row in enumerate(tree, 1)}
    for place, row in cells.items():
        if odd := next(iter(row.keys() ^ set(columns)), None):
            raise UserError(f"{path}: {place}: column '{odd}' is in some rows only")
    return columns, cells
