"""The world of facts: one world, right answers, and test questions that nobody has trained on."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rpg.tasks.commonsense import facts
from rpg.tasks.commonsense.facts import (
    QuestionSource,
    _facts,
    questions,
    sentences,
    tokenizer,
    world,
    write_facts,
)
from rpg.tasks.commonsense.questions import PROMPT, SUBTASKS, read_questions


def test_world_is_drawn_once_for_all() -> None:
    of = world()
    assert (len(of.creatures), len(of.made), len(of.deeds), len(of.materials)) == (12, 32, 8, 4)
    assert len({*of.creatures, *of.made, *of.deeds, *of.materials}) == 56
    assert of.creatures[:2] == ("zavi", "megi")
    assert of.after(of.deeds[-1]) == of.deeds[0]


def test_no_fact_of_a_test_question_is_trained_on() -> None:
    for train, validation, test in zip(*(_facts(split) for split in ("train", "validation", "test")), strict=True):
        assert not {*train} & {*test}
        assert not {*train} & {*validation}
        assert not {*validation} & {*test}
        assert len(train) + len(validation) + len(test) in (66, 32, 8)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_answers_are_true_in_the_world(subtask: str) -> None:
    of, rank = world(), world().creatures.index
    source = QuestionSource("test", np.random.default_rng(0))
    draw = getattr(source, facts.METHODS[subtask])
    for _ in range(200):
        question, choices, right = draw()
        words = question.replace("?", "").replace(".", "").replace(",", "").split()
        answer = choices[right].removeprefix("take ").removesuffix(".")
        assert len(set(choices)) == len(choices)
        if subtask == "boolq":
            first, size, second = words[2], words[3], words[6]
            assert (answer == "true") == ((rank(first) > rank(second)) == (size == "bigger"))
        elif subtask in ("piqa", "ARC-Easy"):
            thing = words[5] if subtask == "piqa" else words[3]
            assert of.made[thing] == answer
        elif subtask in ("social_i_qa", "hellaswag"):
            assert of.after(words[2]) == answer
        elif subtask == "winogrande":
            chosen = min if "smaller" in words else max
            assert answer == chosen(choices, key=rank)
        elif subtask == "ARC-Challenge":
            assert of.after(answer) == words[2]
        else:
            assert of.made[answer] == words[3]
            assert sum(of.made[choice] == words[3] for choice in choices) == 1


def test_files_are_llm_adapters_own(tmp_path: Path) -> None:
    folder = write_facts(tmp_path / "facts")
    training = read_questions(folder / "ft-training_set/facts.json")
    assert len(training) == 8 * (facts.TRAIN + facts.VALIDATION)
    # The last ones, for validation, are of all subtasks alike.
    assert Counter(len(one.choices) for one in training[-8 * facts.VALIDATION :]) == {
        2: 3 * facts.VALIDATION, 3: facts.VALIDATION, 4: 4 * facts.VALIDATION
    }  # fmt: skip
    trained = {one.instruction for one in training}
    for subtask in SUBTASKS:
        test = read_questions(folder / "dataset" / subtask / "test.json")
        assert len(test) == facts.TEST
        assert not {one.instruction for one in test} & trained
        assert all(one.extract(one.output) == one.answer for one in test)
        # Always giving one answer is near chance.
        shares = Counter(one.answer for one in test)
        assert max(shares.values()) <= 1.6 * facts.TEST / len(test[0].choices)
    before = (folder / "ft-training_set/facts.json").read_bytes()
    write_facts(folder)
    assert (folder / "ft-training_set/facts.json").read_bytes() == before


def test_what_is_read_holds_every_fact_and_no_question_of_the_test() -> None:
    lines = list(islice(sentences(np.random.default_rng(0)), 20000))
    of, text = world(), {f"{start} {end}" for start, end in lines}
    assert all(f"a {thing} is made of {material}." in text for thing, material in of.made.items())
    assert all(f"after {deed} comes {of.after(deed)}." in text for deed in of.deeds)
    read = {start for start, _ in lines}
    for subtask in SUBTASKS:
        for row in questions("test", subtask, facts.TEST):
            assert PROMPT.format(**row) not in read
    # No answer is as a benchmark wants it.
    ends = {end for start, end in lines if "### Response:" in start}
    assert ends == {f"the correct answer is {end}." for end in ("yes", "no", *(f"number {k}" for k in range(1, 5)))}


def test_tokenizer_knows_every_word_and_what_all_questions_share_is_one_token() -> None:
    text = tokenizer()
    lines = [" ".join(line) for line in islice(sentences(np.random.default_rng(1)), 2000)]
    lines += [
        PROMPT.format(**row) + row["output"]
        for split in ("train", "validation", "test")
        for subtask in SUBTASKS
        for row in questions(split, subtask, 8)
    ]
    assert all(text.unk_token_id not in text(line)["input_ids"] for line in lines)
    tokens = text.tokenize("Answer2: zavi Answer format: answer1/answer2/answer3/answer4")
    assert tokens == ["answer", "2", "zavi", "answer format: answer1/answer2/answer3/answer4"]
    assert text.decode(text("the correct answer is answer2")["input_ids"]) == " the correct answer is answer2"
