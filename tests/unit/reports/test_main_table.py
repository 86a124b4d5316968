"""The main table in a terminal has the columns of tables.md that fit, without intervals."""

from pathlib import Path

import pytest
from conftest import ROOT

from rpg.reports.main_table import main_table
from rpg.utils.errors import UserError


def test_rows_are_those_of_the_file(finished: Path) -> None:
    path = finished / "results/tables.md"
    text = main_table(path)
    header, rule, row, blank, note = text.splitlines()
    assert header.split() == ["network", "metric", "originals", "RPG", "samples", "min", "best", "n"]
    assert set(rule) == {"-", " "}
    assert (blank, note) == ("", f"Scores in percent on the test split. All tables: {path}")
    whole = next(line for line in path.read_text().splitlines() if line.startswith("| mini "))
    cells = [cell.strip() for cell in whole.strip("|").split("|")]
    short = [
        cells[0],
        cells[1],
        cells[3].partition(" [")[0],
        *(cells[index].partition(" [")[0] for index in (6, 7, 8, 9)),
    ]
    assert " ".join(row.split()) == " ".join(short)


def test_committed_table_fits_a_terminal() -> None:
    lines = main_table(ROOT / "results/tables.md").splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[2].startswith("digits-resnet ")


def test_faults_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tables.md"
    with pytest.raises(UserError, match=r"tables\.md: missing; run `snakemake --cores all .*tables\.md` first"):
        main_table(path)
    for text in ("", "# No table\n", "| a |\n|:--|\n| b |\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"tables\.md: has no table of networks; delete it"):
            main_table(path)


def test_another_unit_is_said(finished: Path, tmp_path: Path) -> None:
    text = (finished / "results/tables.md").read_text().replace(" top1 |", " psnr (dB) |")
    (tmp_path / "tables.md").write_text(text)
    assert "\n\nScores in percent, or as the metric says, on the test split. " in main_table(tmp_path / "tables.md")
