"""The table of adapters for questions, from rows by hand."""

import pandas as pd

from rpg.evaluation.prompt_table import PromptTrial
from rpg.evaluation.question_table import question_table


def rows_of(rpg: float) -> pd.DataFrame:
    """Return the rows of RPG, a rival without answers and one with them, for three tasks, of which "c" is new."""
    scores = {
        (0, "trained"): (80.0, 100.0, 60.0),
        **{(count, "rpg"): (rpg, rpg, rpg - 20) for count in (1, 4)},
        **{(count, "soup"): (50.0, 40.0, 30.0) for count in (1, 4)},
        **{(count, "in_context"): (99.0, 99.0, 99.0) for count in (1, 4)},
    }
    return pd.DataFrame(
        {"questions": count, "method": method, "code": code, "new": code == "c", "test": test}
        for (count, method), of_method in scores.items()
        for code, test in zip("abc", of_method, strict=True)
    )


SECONDS = [{"questions": 4, "method": "rpg", "seconds": 0.01234}, {"questions": 1, "method": "rpg", "seconds": 9.0}]


def test_means_minima_the_new_tasks_and_seconds() -> None:
    table = question_table([PromptTrial(rows_of(74.0), SECONDS)], "a CPU")
    line = next(line for line in table.splitlines() if line.startswith("| RPG |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["RPG", "questions"]
    assert cells[2].startswith("67.33 [")
    assert cells[2].endswith(", 54.0")
    assert cells[4] == "54.00, 54.0"
    assert cells[5] == "0.012"
    trained = next(line for line in table.splitlines() if "adapter trained" in line)
    assert "80.00 [" in trained
    # 67.33 of 80 is 84.2 %; the language model with examples has read answers, so it is no rival.
    assert "n = 4: RPG has 67.33, 84.2 % of the trained adapters' accuracy." in table
    assert "Of the rivals without answers, *mean of the adapters with the nearest questions* is the best." in table
    assert "RPG minus it is +27.33 [" in table


def test_who_wins_depends_on_the_interval() -> None:
    def verdict(rpg: float) -> str:
        line = question_table([PromptTrial(rows_of(rpg), SECONDS)], "a CPU").splitlines()[-1]
        return line.rpartition(": ")[2]

    assert verdict(150.0) == "RPG wins."
    assert verdict(50.0) == "neither wins."
    assert verdict(-60.0) == "RPG loses."


def test_a_cell_of_another_n_names_it() -> None:
    rows = rows_of(74.0)
    rows = rows[~((rows["method"] == "in_context") & (rows["questions"] == 4))]
    seconds = [*SECONDS, {"questions": 1, "method": "in_context", "seconds": 0.5}]
    table = question_table([PromptTrial(rows, seconds)], "a CPU")
    line = next(line for line in table.splitlines() if "answered questions before each" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:] == ["", "99.00, 99.0 (n = 1)", "0.500 (n = 1)"]


def test_two_trainings_count_rivals_once() -> None:
    table = question_table([PromptTrial(rows_of(74.0), SECONDS), PromptTrial(rows_of(80.0), SECONDS)], "a CPU")
    assert "over the tasks and trainings" in table
    assert "| RPG | questions | 70.33" in table
    assert "| mean of the adapters with the nearest questions | questions | 40.00 [" in table
