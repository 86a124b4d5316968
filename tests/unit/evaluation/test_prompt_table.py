import pandas as pd

from rpg.evaluation.prompt_table import PromptTrial, prompt_table

CODES = ["0000011111", "0101010101"]


def rows(**scores: list[float]) -> pd.DataFrame:
    """Rows for k = 1 and 5: the scores of a method are those of the two tasks, equal for both k."""
    found = []
    for method, (first, second) in scores.items():
        for images in (0,) if method in ("trained", "lookup") else (1, 5):
            for evenly in (True, False) if images else (True,):
                facts = {"data": "own", "evenly": evenly, "images": images, "method": method, "epochs": 0}
                found += [
                    {**facts, "code": code, "validation": 50.0, "test": score}
                    for code, score in zip(CODES, (first, second), strict=True)
                ]
    return pd.DataFrame(found)


SECONDS = [{"data": "own", "images": 5, "method": "rpg", "epochs": 0, "seconds": 0.0123}]


def test_a_row_by_hand() -> None:
    trial = PromptTrial(rows(trained=[98.0, 100.0], rpg=[96.0, 98.0], probe=[90.0, 94.0]), SECONDS)
    text = prompt_table([trial], "a CPU")
    assert "k = 5, on a CPU" in text
    # Student's t of one degree of freedom is 12.706, and the deviation of a mean of two that differ by 2 is 1.
    assert "| RPG | 97.00 [84.3, 100.0], 96.0 | 97.00 [84.3, 100.0], 96.0 | 97.00 [84.3, 100.0], 96.0 | 0.012 |" in text
    assert "| *networks trained for the task on all images* | 99.00 [86.3, 100.0], 98.0 |  |  |  |" in text
    assert "k = 5: RPG has 98.0 % of the trained networks' accuracy. RPG is above all rivals" in text


def test_the_sentence_says_who_wins() -> None:
    trial = PromptTrial(rows(trained=[98.0, 100.0], rpg=[90.0, 91.0], votes=[99.0, 99.0]), SECONDS)
    line = next(line for line in prompt_table([trial], "").splitlines() if line.startswith("- k = 5"))
    assert "RPG loses: the best, *the base network's classes, each counted as no or yes by the images*" in line
    assert line.endswith("has 99.00, RPG 90.50.")


def test_several_trainings_count_once_for_what_is_not_trained_anew() -> None:
    one = PromptTrial(rows(trained=[98.0, 98.0], rpg=[90.0, 90.0], probe=[50.0, 50.0]), SECONDS)
    other = PromptTrial(rows(trained=[98.0, 98.0], rpg=[94.0, 94.0], probe=[70.0, 70.0]), SECONDS)
    told = pd.DataFrame({"code": CODES, "test": [97.0, 97.0], "training": [0, 0]})
    text = prompt_table([one, other], "", told)
    assert "over the\ntasks and trainings" in text
    assert next(line for line in text.splitlines() if line.startswith("| RPG |")).split("|")[2].startswith(" 92.00")
    assert "| logistic regression on the base network's features | 50.00 " in text
    assert "| *RPG that is told the code* | 97.00 [97.0, 97.0], 97.0 |" in text
