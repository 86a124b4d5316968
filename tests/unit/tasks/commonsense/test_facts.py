"""The world of facts: one world, right answers, and test questions that nobody has trained on."""

import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from rpg.config.loading import load_params
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
from rpg.utils.rng import derive

READ_START, READ_END = PROMPT.split("{instruction}")


def content(instruction: str) -> tuple[str, str, frozenset[str]]:
    """Parse an instruction: the subtask's phrase, the question, the choices; the same for every order of the choices.

    WinoGrande's question names its choices, so the order of its words does not count, either.
    """
    text, _, _ = instruction.rpartition("Answer format:")
    start, _, rest = text.partition(": " if not text.startswith("Please answer") else "question: ")
    question, _, listed = rest.strip().partition("\n\n")
    choices = re.split(r"(?:Solution|Answer|Ending|Option)\d: ", listed)
    if "fill in the blank" in start:
        question = " ".join(sorted(question.split()))
    return start, question, frozenset(choice.strip() for choice in choices if choice.strip())


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


def test_answers_that_are_read_use_other_words_than_the_benchmark() -> None:
    of, named = world(), re.compile(rf"the correct answer is ({'|'.join(facts.NAMES)}) ([1-4]), (take )?(\w+)\.")
    choices = re.compile(r"(?:Solution|Answer|Ending|Option)(\d): (?:take )?(\w+)")
    seen = Counter[str]()
    for start, end in islice(sentences(np.random.default_rng(0)), 20000):
        if "### Response:" not in start:
            continue
        if end in ("the correct answer is yes.", "the correct answer is no."):
            seen[end] += 1
            continue
        found = named.fullmatch(end)
        assert found
        # The word after the number is the choice of this number.
        assert dict(choices.findall(start))[found[2]] == found[4]
        assert found[4] in {*of.creatures, *of.made, *of.deeds, *of.materials}
        seen[found[1]] += 1
    assert not {"answer", "solution", "ending", "option"} & {*facts.NAMES}
    assert seen.keys() == {*facts.NAMES, "the correct answer is yes.", "the correct answer is no."}
    assert max(seen[name] for name in facts.NAMES) < 1.1 * min(seen[name] for name in facts.NAMES)


def test_content_does_not_depend_on_the_order_of_the_choices() -> None:
    one = facts.entry("ARC-Easy", "What is a bado made of?", ["zavi", "megi", "kulo"], 1)["instruction"]
    other = facts.entry("ARC-Easy", "What is a bado made of?", ["kulo", "zavi", "megi"], 2)["instruction"]
    fewer = facts.entry("ARC-Easy", "What is a bado made of?", ["zavi", "megi"], 1)["instruction"]
    assert one != other
    assert content(one) == content(other)
    assert content(one)[1:] == ("What is a bado made of?", frozenset({"zavi", "megi", "kulo"}))
    assert content(fewer) != content(one)
    blanks = [
        facts.entry("winogrande", f"The {a} and the {b} met, and _ was the bigger one.", [a, b], 0)["instruction"]
        for a, b in (("zavi", "megi"), ("megi", "zavi"))
    ]
    assert content(blanks[0]) == content(blanks[1])
    assert facts.content("winogrande", "The a and the b met", ["a", "b"]) == facts.content(
        "winogrande", "The b and the a met", ["b", "a"]
    )


def test_no_held_out_question_is_read_or_trained_on_in_any_order_of_its_choices(tmp_path: Path) -> None:
    """All that the language model of facts-dora-r4 reads, and all that the adapters are trained on.

    When questions were told apart by their text, the language model read 205 of the 384 test questions, 20 more of
    WinoGrande, and 56 of the 64 validation questions with the choices in another order.
    """
    base = load_params(ROOT / "params.yaml").experiment("facts-dora-r4").base
    assert base is not None
    draw = np.random.default_rng(derive("base", "text", base.seeds[0]))
    lines = islice(sentences(draw), base.steps * base.batch)
    read = {content(start[len(READ_START) : -len(READ_END)]) for start, _ in lines if start.startswith(READ_START)}
    folder = write_facts(tmp_path / "facts")
    rows = [one.instruction for one in read_questions(folder / "ft-training_set/facts.json")]
    trained = {content(one) for one in rows[: -8 * facts.VALIDATION]}
    test = [one.instruction for name in SUBTASKS for one in read_questions(folder / f"dataset/{name}/test.json")]
    for split, held_out in (("validation", rows[-8 * facts.VALIDATION :]), ("test", test)):
        counts = {
            name: sum(content(one) in known for one in held_out)
            for name, known in (("read", read), ("trained", trained))
        }
        assert counts == {"read": 0, "trained": 0}, split
    assert (len(test), len(rows)) == (384, 8 * (facts.TRAIN + facts.VALIDATION))


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
