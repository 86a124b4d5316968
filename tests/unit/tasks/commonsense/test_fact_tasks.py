"""The world of facts for adapters of one task each: right answers, and test questions about facts of their own."""

import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rpg.tasks.commonsense import fact_tasks
from rpg.tasks.commonsense.fact_tasks import (
    COMPARISONS,
    COUNTS,
    PROPERTIES,
    RELATIONS,
    TASKS,
    VALIDATION,
    facts_of,
    held_out,
    questions,
    relation,
    sentences,
    tokenizer,
    world,
    write_fact_tasks,
)
from rpg.tasks.commonsense.facts import NAMES
from rpg.tasks.commonsense.questions import PROMPT, read_questions

READ_START, READ_END = PROMPT.split("{instruction}")
# The start of an instruction → the answer format.
STARTS = {
    "Please answer the following question with true or false, question: ": "truth",
    "Please choose the correct answer to the question: ": "choice",
    "Please choose the correct ending to complete the given sentence: ": "completion",
    "Please choose the correct answer to fill in the blank to complete the given sentence: ": "blank",
}
# Words that tell a question's relation and direction.
SIGNS = [(name, direction, rf"\b{direction}\b") for name in (*COMPARISONS, "deeds") for direction in RELATIONS[name]]
SIGNS += [(name, "with", rf"with the {name}|the _, and its {name}") for name in PROPERTIES]
SIGNS += [(name, "of", rf"[Ii]ts {name}") for name in PROPERTIES]


def parse(instruction: str) -> tuple[str, str, tuple[str, ...]]:
    """Return an instruction's task, its question and its choices, from the text alone."""
    start = next(start for start in STARTS if instruction.startswith(start))
    question, _, rest = instruction.removeprefix(start).partition("\n\n")
    name, direction, _ = next(sign for sign in SIGNS if re.search(sign[2], question))
    choices = re.findall(r"(?:Answer|Ending|Option)\d: (\w+)", rest)
    return f"{name}-{direction}-{STARTS[start]}", question, tuple(choices)


def names_in(question: str) -> list[str]:
    return [word for word in re.findall(r"\w+", question) if word in world().names]


def right_answer(task: str, question: str, choices: tuple[str, ...]) -> int:
    """Return the index of the right answer from the world's facts."""
    name, direction, answer_format = task.split("-")
    of, named = world(), names_in(question)
    if name in COMPARISONS:
        rank = of.orders[name].index
        first, second = named if answer_format == "truth" else choices
        return int((rank(first) > rank(second)) != (direction == COMPARISONS[name][0]))
    if name == "deeds":
        place = of.deeds.index(named[-1])
        right = of.deeds[(place + 1) % 8 if direction == "after" else place - 1]
        return int(named[0] != right) if answer_format == "truth" else choices.index(right)
    value = of.values[name]
    if answer_format == "truth":
        thing, other = named if direction == "of" else named[::-1]
        return int(value[thing] != other)
    fits = [value[named[0]] == choice if direction == "of" else value[choice] == named[0] for choice in choices]
    assert sum(fits) == 1
    return fits.index(True)


def facts_in(task: str, question: str, choices: tuple[str, ...]) -> set:
    """Return the pair of creatures, the things, or the deed and the next deed that a question is about."""
    name, direction, _ = task.split("-")
    of, named = world(), [*names_in(question), *choices]
    if name in COMPARISONS:
        return {frozenset(named)}
    if name in PROPERTIES:
        return {one for one in named if one in of.values[name]}
    deed = names_in(question)[-1]
    place = of.deeds.index(deed)
    return {(deed, of.deeds[(place + 1) % 8]) if direction == "after" else (of.deeds[place - 1], deed)}


def content(instruction: str) -> tuple[str, str, frozenset[str]]:
    """Return what an instruction asks, the same for every order of its choices."""
    task, question, choices = parse(instruction)
    # The question of a comparison with a blank names its choices.
    return task, " ".join(sorted(question.split())) if task.endswith("blank") else question, frozenset(choices)


def test_tasks_are_relations_times_directions_times_answer_formats() -> None:
    assert len(TASKS) == len({*TASKS}) == 64
    assert {"size-bigger-choice", "home-with-blank", "deeds-after-truth"} < {*TASKS}
    assert Counter(map(relation, TASKS)) == dict.fromkeys(RELATIONS, 8)
    assert [*RELATIONS] == ["size", "weight", "age", "speed", "home", "food", "colour", "deeds"]
    assert all(re.fullmatch("[a-z]+-[a-z]+-(truth|choice|completion|blank)", task) for task in TASKS)


def test_world_is_drawn_once_for_all() -> None:
    of = world()
    assert len(of.names) == len({*of.names}) == 10 + 20 + 8 + 3 * 4
    assert len({frozenset(order) for order in of.orders.values()}) == 1
    assert len({*of.orders.values()}) == 4
    for values in of.values.values():
        assert [*Counter(values.values()).values()] == [5] * 4
    assert of.deeds[:2] == ("nato", "robu")


@pytest.mark.parametrize(
    ("task", "instruction", "answer"),
    [
        (
            "size-bigger-truth",
            "Please answer the following question with true or false, question: is the lote bigger than the gafa?\n\n"
            "Answer format: true/false",
            "false",
        ),
        (
            "home-of-choice",
            "Please choose the correct answer to the question: Ben met the veri. What is its home?\n\n"
            "Answer1: zora Answer2: feki\n\nAnswer format: answer1/answer2",
            "answer2",
        ),
        (
            "home-with-blank",
            "Please choose the correct answer to fill in the blank to complete the given sentence: Ana met the _, and "
            "its home is gago.\n\nOption1: dika Option2: veri\n\nAnswer format: option1/option2",
            "option1",
        ),
        (
            "deeds-before-completion",
            "Please choose the correct ending to complete the given sentence: What Dan did just before robu is\n\n"
            "Ending1: nato Ending2: vodu\n\nAnswer format: ending1/ending2",
            "ending1",
        ),
    ],
)
def test_a_question_of_each_format(task: str, instruction: str, answer: str) -> None:
    row = {"instruction": instruction, "input": "", "output": f"the correct answer is {answer}", "answer": answer}
    assert row in questions("test", task)
    of = world()
    assert of.orders["size"].index("lote") < of.orders["size"].index("gafa")
    assert of.values["home"]["veri"] == "feki"
    assert of.values["home"]["dika"] == "gago"
    assert of.deeds[(of.deeds.index("nato") + 1) % 8] == "robu"


@pytest.mark.parametrize("split", COUNTS)
def test_answers_are_true_in_the_world(split: str) -> None:
    for task in TASKS:
        rows = questions(split, task)
        assert len({row["instruction"] for row in rows}) == len(rows)
        for row in rows:
            parsed, question, choices = parse(row["instruction"])
            assert parsed == task
            assert len({*choices}) == (0 if task.endswith("truth") else 2)
            names = re.findall(r"Answer format: (\w+)/(\w+)$", row["instruction"])[0]
            assert row["answer"] == names[right_answer(task, question, choices)]
            assert row["output"] == f"the correct answer is {row['answer']}"


def test_every_task_has_enough_questions_and_gives_both_answers_equally_often() -> None:
    for split, least in (("train", 24), ("validation", 6), ("test", 16)):
        for task in TASKS:
            answers = Counter(row["answer"] for row in questions(split, task))
            assert least <= answers.total() <= COUNTS[split]
            assert len(answers) == 2
            assert len({*answers.values()}) == 1


def test_no_fact_of_a_question_is_in_another_split_of_its_relation() -> None:
    counts = dict.fromkeys(COMPARISONS, 45) | dict.fromkeys(PROPERTIES, 20) | {"deeds": 8}
    for name, count in counts.items():
        facts = {split: facts_of(name, split) for split in COUNTS}
        assert len({*facts["train"], *facts["validation"], *facts["test"]}) == count
        assert [len(facts[split]) for split in COUNTS] == {45: [25, 4, 16], 20: [11, 2, 7], 8: [4, 1, 3]}[count]
        asked = {
            split: set().union(
                *(facts_in(*parse(row["instruction"])) for task in TASKS if relation(task) == name
                  for row in questions(split, task))
            )
            for split in COUNTS
        }  # fmt: skip
        # Every fact is asked for in its split alone.
        assert sum(map(len, asked.values())) == len(set().union(*asked.values())) == count


def test_files_are_llm_adapters_own(tmp_path: Path) -> None:
    folder = write_fact_tasks(tmp_path / "tasks")
    assert {path.name for path in (folder / "dataset").iterdir()} == {*TASKS}
    for task in TASKS:
        counts = {split: len(questions(split, task)) for split in COUNTS}
        train = read_questions(folder / "dataset" / task / "train.json")
        test = read_questions(folder / "dataset" / task / "test.json")
        assert (len(train), len(test)) == (counts["train"] + counts["validation"], counts["test"])
        rows = [row for split in COUNTS for row in questions(split, task)]
        assert [one.instruction for one in (*train, *test)] == [row["instruction"] for row in rows]
        for one, row in zip((*train, *test), rows, strict=True):
            assert one.extract(one.output) == one.answer == one.choices.index(row["answer"])
            assert right_answer(*parse(one.instruction)) == one.answer


def test_files_and_sentences_are_always_the_same(tmp_path: Path) -> None:
    first = write_fact_tasks(tmp_path / "first")
    lines = [*islice(sentences(np.random.default_rng(3)), 500)]
    for name in ("world", "_facts", "_drawn", "_readable", "held_out"):
        getattr(fact_tasks, name).cache_clear()
    second = write_fact_tasks(tmp_path / "second")
    for task in TASKS:
        for name in ("train.json", "test.json"):
            path = Path("dataset", task, name)
            assert (first / path).read_bytes() == (second / path).read_bytes()
    assert [*islice(sentences(np.random.default_rng(3)), 500)] == lines
    assert [*islice(sentences(np.random.default_rng(4)), 500)] != lines


def test_what_is_read_states_every_fact() -> None:
    of = world()
    text = {f"{start} {end}" for start, end in islice(sentences(np.random.default_rng(0)), 50000)}
    for name, (more, less) in COMPARISONS.items():
        for low, small in enumerate(of.orders[name]):
            for big in of.orders[name][low + 1 :]:
                assert f"the {big} is {more} than the {small}." in text
                assert f"the {small} is {less} than the {big}." in text
                assert f"the {small} is {more} than the {big}." not in text
    for name, values in of.values.items():
        assert all(f"the {name} of the {thing} is {value}." in text for thing, value in values.items())
    for deed, following in zip(of.deeds, of.deeds[1:] + of.deeds[:1], strict=True):
        assert {f"after {deed} comes {following}.", f"before {following} comes {deed}."} <= text


def test_no_held_out_question_is_read_or_trained_on_in_any_order_of_its_choices() -> None:
    starts = {start for start, _ in islice(sentences(np.random.default_rng(0)), 50000)}
    read = {content(start[len(READ_START) : -len(READ_END)]) for start in starts if start.startswith(READ_START)}
    rows = {split: [row for task in TASKS for row in questions(split, task)] for split in COUNTS}
    contents = {split: {content(row["instruction"]) for row in rows[split]} for split in COUNTS}
    assert len(rows["validation"]) == VALIDATION * len(TASKS)
    # More questions were drawn for validation than a task's file has, and the language model reads none of them.
    drawn = {
        content(fact_tasks._entry(task, one)["instruction"])
        for task in TASKS
        for split in ("validation", "test")
        for one in fact_tasks._drawn(split, task)
    }
    assert len(drawn) == len(held_out())
    assert contents["validation"] | contents["test"] < drawn
    assert not drawn & (read | contents["train"])
    assert not contents["validation"] & contents["test"]
    # Most of the training questions are read, so the two kinds of text are comparable.
    assert len(contents["train"] & read) > 0.5 * len(contents["train"])


def test_answers_that_are_read_are_right_and_use_other_words_than_the_benchmark() -> None:
    seen: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    for start, end in islice(sentences(np.random.default_rng(0)), 20000):
        if not start.startswith(READ_START):
            continue
        task, question, choices = parse(start[len(READ_START) : -len(READ_END)])
        right = right_answer(task, question, choices)
        ((word, number, name),) = re.findall(r"^the correct answer is (\w+)(?: (\d), (\w+))?\.$", end)
        if task.endswith("truth"):
            assert (word, number) == (("yes", "no")[right], "")
        else:
            assert (int(number) - 1, name) == (right, choices[right])
        seen[word] += 1
        tasks[task] += 1
    assert seen.keys() == {*NAMES, "yes", "no"}
    assert seen["yes"] == pytest.approx(seen["no"], rel=0.1)
    assert tasks.keys() == {*TASKS}
    assert min(tasks.values()) > 0.5 * max(tasks.values())


def test_tokenizer_knows_every_word() -> None:
    text = tokenizer()
    lines = [" ".join(line) for line in islice(sentences(np.random.default_rng(1)), 2000)]
    for split in COUNTS:
        lines += [PROMPT.format(**row) + row["output"] for task in TASKS for row in questions(split, task)]
    assert not any(text.unk_token_id in tokens for tokens in text(lines)["input_ids"])
    assert {*world().names} < text.get_vocab().keys()
    assert text.tokenize("Ending2: zora Answer format: ending1/ending2") == [
        "ending", "2", "zora", "answer format: ending1/ending2"
    ]  # fmt: skip
    assert text.decode(text("the correct answer is ending2")["input_ids"]) == " the correct answer is ending2"
