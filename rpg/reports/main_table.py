"""Show the main table of results/tables.md in a terminal: `rpg show`."""

from pathlib import Path

from tabulate import tabulate

from rpg.utils.errors import UserError

# Column of results/tables.md → column in the terminal. Rows must fit into 100 characters, so some columns are missing.
COLUMNS = {
    "network": "network",
    "metric": "metric",
    "original mean ± std": "originals",
    "RPG mean ± std": "RPG samples",
    "RPG min": "min",
    "RPG best": "best",
    "RPG n": "n",
}


def main_table(path: Path) -> str:
    """Format the first table in `path` for a terminal, without intervals; UserError if there is no table."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: missing; run `snakemake --cores all {path}` first") from error
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    if len(rows) < 2 or not COLUMNS.keys() <= set(rows[0]):
        raise UserError(f"{path}: has no table of networks; delete it and run `snakemake --cores all {path}` again")
    header, _, *body = rows
    kept = [header.index(column) for column in COLUMNS]
    table = [[row[index].partition(" [")[0] for index in kept] for row in body]
    text = tabulate(table, list(COLUMNS.values()), tablefmt="simple", disable_numparse=True, colalign=_alignment())
    # tables.md names the unit behind a metric that is no percentage.
    other = any(row[header.index("metric")].endswith(")") for row in body)
    unit = "in percent, or as the metric says," if other else "in percent"
    return f"{text}\n\nScores {unit} on the test split. All tables: {path}"


def _alignment() -> list[str]:
    return ["left", "left", *["right"] * (len(COLUMNS) - 2)]
