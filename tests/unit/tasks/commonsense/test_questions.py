"""The reader, the published extraction, and the real test sets where they are."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from rpg.tasks.commonsense.questions import SUBTASKS, Question, read_questions
from rpg.utils.errors import UserError

ROW = {
    "instruction": "Please choose the correct answer to the question: Why?\n\nAnswer1: a Answer2: b\n\n"
    "Answer format: answer1/answer2",
    "input": "",
    "output": "the correct answer is answer2",
    "answer": "answer2",
}
# The published numbers of test questions (HellaSwag has 10042).
COUNTS = {
    "boolq": 3270,
    "piqa": 1838,
    "social_i_qa": 1954,
    "winogrande": 1267,
    "ARC-Easy": 2376,
    "ARC-Challenge": 1172,
    "openbookqa": 500,
}
REAL = next(
    (
        folder
        for root in (os.environ.get("RPG_DATA"), ROOT.parent / "shared/data")
        if root and (folder := Path(root) / "commonsense").is_dir()
    ),
    None,
)


def test_list_and_lines_read_alike(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "answer": "answer1", "output": "the correct answer is answer1"}]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    read = read_questions(tmp_path / "list.json")
    assert read == read_questions(tmp_path / "lines.json")
    assert [one.answer for one in read] == [1, 0]
    assert read[0].choices == ("answer1", "answer2")


def test_prompt_is_the_published_evaluations() -> None:
    question = Question("Is it?", "", "", ("true", "false"), 0)
    start = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n"
    )
    blank = " " * 16
    assert question.prompt == f"{start}\n{blank}### Instruction:\n{blank}Is it?\n\n{blank}### Response:\n{blank}"
    assert "### Input:\n                of this" in Question("Is it?", "of this", "", ("true", "false"), 0).prompt


@pytest.mark.parametrize(
    ("choices", "text", "found"),
    [
        (("true", "false"), "the correct answer is false", 1),
        (("true", "false"), "true, not false", 0),
        (("true", "false"), "True", -1),
        (("solution1", "solution2"), "I take solution2", 1),
        (("answer1", "answer2", "answer3"), "answer3 answer1", 2),
        # It names a choice that this question has not: wrong, as published.
        (("answer1", "answer2", "answer3"), "answer4 or answer1", -1),
        (("ending1", "ending2", "ending3", "ending4"), "ending4", 3),
        (("option1", "option2"), "", -1),
    ],
)
def test_first_choice_that_is_named_is_the_answer(choices: tuple[str, ...], text: str, found: int) -> None:
    assert Question("", "", "", choices, 0).extract(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file; arrange the data in the folders of LLM-Adapters"),
        ("", "holds no question"),
        ("[]", "holds no question"),
        ("[" * 100000, "not"),
        (f"[{json.dumps(ROW)},\n{{]", "line 2: not JSON"),
        (f"{json.dumps(ROW)}\n{{broken\n", "line 2: not JSON"),
        ("[3]", "question 1: must have the text fields instruction, input, output, answer"),
        (json.dumps({**ROW, "answer": 2}), "line 1: must have the text fields"),
        (
            json.dumps([ROW, {**ROW, "answer": "answer3"}]),
            "question 2: the answer 'answer3' is not among answer1/answer2",
        ),
        (json.dumps([{**ROW, "instruction": "Why?"}]), "question 1: its instruction must end as in 'Answer format"),
        (json.dumps([{**ROW, "instruction": "Answer format: yes/no"}]), "question 1: its instruction must end as in"),
    ],
)
def test_a_fault_is_one_line_that_names_it(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "test.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        read_questions(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(REAL is None, reason="the real test sets are not here")
@pytest.mark.parametrize("subtask", COUNTS)
def test_every_real_answer_is_found_in_its_output(subtask: str) -> None:
    assert REAL
    questions = read_questions(REAL / "dataset" / subtask / "test.json")
    assert len(questions) == COUNTS[subtask]
    assert [one.extract(one.output) for one in questions] == [one.answer for one in questions]
    # None is ambiguous: an output names one choice, once.
    assert all(sum(one.output.count(name) for name in one.choices) == 1 for one in questions)
    assert subtask in SUBTASKS


@pytest.mark.skipif(REAL is None, reason="the real test sets are not here")
def test_real_numbers_of_choices() -> None:
    assert REAL
    found = Counter(len(one.choices) for one in read_questions(REAL / "dataset/ARC-Easy/test.json"))
    assert found == {4: 2365, 3: 7, 5: 4}
