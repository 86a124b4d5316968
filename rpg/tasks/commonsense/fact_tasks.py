"""A world of facts for adapters of one task each, in LLM-Adapters' files.

A task is a relation, a direction and an answer format: "size-bigger-choice" asks which of two creatures is bigger.
Creatures differ in size, weight, age and speed; things have a home, a food and a colour; deeds follow each other. All
facts are drawn at random. A language model reads all facts, and questions of all tasks, but no validation or test
question (`sentences`). The adapter of a task trains on questions about some facts and is tested on other facts: no
test question shares its fact with a training or validation question of any task of the same relation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from rpg.tasks.commonsense.facts import FORMATS, NAMES, PEOPLE, SHARES, content, entry
from rpg.tasks.commonsense.questions import ANSWER, PROMPT
from rpg.tasks.commonsense.words import made_up_names, word_tokenizer
from rpg.utils.files import exclusive, write_json
from rpg.utils.rng import derive

# Of the questions drawn for validation, which the language model never reads, a task has the first VALIDATION; every
# task has so many.
VALIDATION = 8
COUNTS = {"train": 64, "validation": 16, "test": 40}
CREATURES, THINGS, DEEDS, VALUES = 10, 20, 8, 4
# The language model reads this many questions after each round of statements.
QUESTIONS = 32

# Relation → its two directions. The first direction of a comparison asks for the creature with more.
COMPARISONS = {
    "size": ("bigger", "smaller"),
    "weight": ("heavier", "lighter"),
    "age": ("older", "younger"),
    "speed": ("faster", "slower"),
}
# "of" asks for the value of a thing, "with" asks for a thing with a value.
PROPERTIES = dict.fromkeys(("home", "food", "colour"), ("of", "with"))
RELATIONS: dict[str, tuple[str, str]] = COMPARISONS | PROPERTIES | {"deeds": ("after", "before")}
# Answer format → the subtask whose instruction and names of choices the format has.
ANSWER_FORMATS = {"truth": "boolq", "choice": "ARC-Easy", "completion": "hellaswag", "blank": "winogrande"}
TASKS: tuple[str, ...] = tuple(
    f"{name}-{direction}-{answer_format}"
    for name, directions in RELATIONS.items()
    for direction, answer_format in product(directions, ANSWER_FORMATS)
)

# Kind of relation → answer format → question. A question of the format "truth" names the answer and, in a
# comparison, the other creature.
TEMPLATES = {
    "comparison": {
        "truth": "is the {answer} {direction} than the {other}?",
        "choice": "Which one is {direction}?",
        "completion": "Of the two, the {direction} one is the",
        "blank": "The {first} and the {second} met, and _ was the {direction} one.",
    },
    "of": {
        "truth": "{person} met the {given}. Is its {relation} {answer}?",
        "choice": "{person} met the {given}. What is its {relation}?",
        "completion": "{person} met the {given}. Its {relation} is",
        "blank": "{person} met the {given}, and its {relation} is _.",
    },
    "with": {
        "truth": "{person} met one with the {relation} {given}. Can it be the {answer}?",
        "choice": "{person} met one with the {relation} {given}. Which one can it be?",
        "completion": "{person} met one with the {relation} {given}. It can be the",
        "blank": "{person} met the _, and its {relation} is {given}.",
    },
    "deeds": {
        "truth": "did {person} do {answer} just {direction} {given}?",
        "choice": "{person} did {given}. What did {person} do just {direction}?",
        "completion": "What {person} did just {direction} {given} is",
        "blank": "{person} did _ just {direction} {given}.",
    },
}

# A fact as two names: the creature with less and the creature with more, a thing and its value, a deed and the next.
Fact = tuple[str, str]
# A question, its two choices, and the index of the right choice.
Asked = tuple[str, tuple[str, str], int]


@dataclass(frozen=True)
class TaskWorld:
    """`orders` comparison → creatures from least to most, `values` property → thing → value, `deeds` in a circle."""

    orders: dict[str, tuple[str, ...]]
    values: dict[str, dict[str, str]]
    deeds: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All creatures, things, values and deeds."""
        creatures, properties = next(iter(self.orders.values())), list(self.values.values())
        values = [value for values in properties for value in values.values()]
        return tuple(dict.fromkeys([*creatures, *properties[0], *values, *self.deeds]))


@cache
def world() -> TaskWorld:
    """Return the only world, always the same."""
    draw = np.random.default_rng(derive("fact tasks", "world"))
    names = iter(made_up_names(draw, CREATURES + THINGS + DEEDS + VALUES * len(PROPERTIES)))
    creatures, things, deeds = ([next(names) for _ in range(count)] for count in (CREATURES, THINGS, DEEDS))
    orders = {name: tuple(str(one) for one in draw.permutation(creatures)) for name in COMPARISONS}
    values = {}
    for name in PROPERTIES:
        chosen = [next(names) for _ in range(VALUES)]
        values[name] = {str(thing): chosen[index % VALUES] for index, thing in enumerate(draw.permutation(things))}
    return TaskWorld(orders, values, tuple(deeds))


def relation(task: str) -> str:
    """Return the relation of a task: "size" for "size-bigger-choice"."""
    return task.partition("-")[0]


@cache
def _facts(name: str) -> tuple[Fact, ...]:
    """Return all facts of a relation, in random order."""
    of = world()
    if name in PROPERTIES:
        # The random order of the values' drawing: the things of each split have all values about equally often.
        return tuple(of.values[name].items())
    following = of.deeds[1:] + of.deeds[:1]
    pairs = list(combinations(of.orders[name], 2) if name in COMPARISONS else zip(of.deeds, following, strict=True))
    order = np.random.default_rng(derive("fact tasks", "split", name)).permutation(len(pairs))
    return tuple(pairs[index] for index in order)


def facts_of(name: str, split: str) -> tuple[Fact, ...]:
    """Return the facts of a relation for the questions of a split: "train", "validation" or "test"."""
    facts = _facts(name)
    first = round(SHARES["train"] * len(facts))
    second = first + max(1, round(SHARES["validation"] * len(facts)))
    start, end = {"train": (0, first), "validation": (first, second), "test": (second, len(facts))}[split]
    return facts[start:end]


def _cases(name: str, direction: str, facts: tuple[Fact, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield what a question about one of the facts gives, its right answer and a wrong answer."""
    of, forward = world(), direction == RELATIONS[name][0]
    for fact in facts:
        given, right = fact if forward else fact[::-1]
        if name in COMPARISONS:
            yield "", right, given
        elif name == "deeds":
            yield from ((given, right, wrong) for wrong in of.deeds if wrong not in fact)
        elif forward:
            yield from ((given, right, wrong) for wrong in dict.fromkeys(of.values[name].values()) if wrong != right)
        else:
            # The wrong thing, too, is of the same split.
            yield from ((given, right, wrong) for wrong, value in facts if value != given)


def _asked(task: str, facts: tuple[Fact, ...]) -> list[Asked]:
    """Return all different questions of a task about the facts."""
    name, direction, answer_format = task.split("-")
    template = TEMPLATES["comparison" if name in COMPARISONS else name if name == "deeds" else direction][answer_format]
    asked: dict[Asked, None] = {}
    for (given, *answers), person, index in product(_cases(name, direction, facts), PEOPLE, (0, 1)):
        # The right answer, answers[0], stands at the index. A question of the format "truth" names the first answer.
        first, second = answers if index == 0 else answers[::-1]
        question = template.format(
            relation=name, direction=direction, person=person, given=given,
            answer=first, other=second, first=first, second=second,
        )  # fmt: skip
        asked[question, ("true", "false") if answer_format == "truth" else (first, second), index] = None
    return list(asked)


@cache
def _drawn(split: str, task: str) -> tuple[Asked, ...]:
    """Return the questions of a split, in random order; both indices are right equally often."""
    draw = np.random.default_rng(derive("fact tasks", split, task))
    asked = _asked(task, facts_of(relation(task), split))
    by_index = [[one for one in asked if one[2] == index] for index in (0, 1)]
    count = min(COUNTS[split] // 2, *map(len, by_index))
    chosen = [same[place] for same in by_index for place in draw.permutation(len(same))[:count]]
    return tuple(chosen[place] for place in draw.permutation(len(chosen)))


def _subtask(task: str) -> str:
    return ANSWER_FORMATS[task.rpartition("-")[2]]


def _entry(task: str, asked: Asked) -> dict[str, str]:
    question, choices, right = asked
    return entry(_subtask(task), question, list(choices), right)


def _content(task: str, asked: Asked) -> tuple[str, str, frozenset[str]]:
    question, choices, _ = asked
    return content(_subtask(task), question, list(choices))


def questions(split: str, task: str) -> list[dict[str, str]]:
    """Return the questions of a split with different instructions, in the format of the task's file.

    A task with fewer than COUNTS[split] different questions has all of them.
    """
    drawn = list(_drawn(split, task))
    if split == "validation":
        drawn = [one for index in (0, 1) for one in [same for same in drawn if same[2] == index][: VALIDATION // 2]]
    return [_entry(task, one) for one in drawn]


@cache
def held_out() -> frozenset[tuple[str, str, frozenset[str]]]:
    """Return the content of all questions that were drawn for validation and test."""
    return frozenset(
        _content(task, one) for task in TASKS for split in ("validation", "test") for one in _drawn(split, task)
    )


def write_fact_tasks(folder: Path) -> Path:
    """Write the questions to disk in LLM-Adapters' folders; return the folder.

    `dataset/<task>/train.json` holds the training questions and, at its end, the validation questions.
    `dataset/<task>/test.json` holds the test questions.
    """
    with exclusive(folder):
        for task in TASKS:
            rows = questions("train", task) + questions("validation", task)
            write_json(folder / "dataset" / task / "train.json", rows)
            write_json(folder / "dataset" / task / "test.json", questions("test", task))
    return folder


@cache
def _readable(task: str) -> tuple[list[Asked], list[Asked]]:
    """Return the questions that the language model reads, by the index of the right choice."""
    asked = [one for one in _asked(task, _facts(relation(task))) if _content(task, one) not in held_out()]
    return [one for one in asked if one[2] == 0], [one for one in asked if one[2] == 1]


def _statements(draw: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield two statements for each comparison, one for each property, and two about a deed."""
    for name, directions in COMPARISONS.items():
        for less, more in (_pick(draw, _facts(name)) for _ in range(2)):
            place = int(draw.integers(2))
            first, second = (more, less) if place == 0 else (less, more)
            yield f"the {first} is {directions[place]} than the", f"{second}."
    for name in PROPERTIES:
        thing, value = _pick(draw, _facts(name))
        yield f"the {name} of the {thing} is", f"{value}."
    deed, following = _pick(draw, _facts("deeds"))
    yield f"after {deed} comes", f"{following}."
    yield f"before {following} comes", f"{deed}."


def _pick(draw: np.random.Generator, among: tuple | list) -> Any:
    return among[int(draw.integers(len(among)))]


def sentences(draw: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield endless sentences about the world, each as (start, end).

    The sentences state all facts and answer questions of all tasks. No question has the content of a validation or
    test question, in whatever order its choices stand. The answers use other words than the benchmarks require. So a
    model that learns these sentences knows the answers, but not the format of an answer.
    """
    while True:
        yield from _statements(draw)
        for _ in range(QUESTIONS):
            task = _pick(draw, TASKS)
            asked = _pick(draw, _pick(draw, _readable(task)))
            _, choices, right = asked
            # The choice follows its number, which teaches sooner which number belongs to which choice.
            named = f"{_pick(draw, NAMES)} {right + 1}, {choices[right]}"
            answer = ("yes", "no")[right] if choices == ("true", "false") else named
            yield PROMPT.format(**_entry(task, asked)), f"{ANSWER}{answer}."


@cache
def tokenizer() -> Any:
    """Return a tokenizer of the world's words in lower case; each phrase that all questions share is one token."""
    reading = sentences(np.random.default_rng(0))
    texts = [*world().names, *PEOPLE, *(" ".join(next(reading)) for _ in range(1000))]
    for task in TASKS:
        for row in questions("train", task):
            texts += [PROMPT.format(**row), row["output"]]
    return word_tokenizer([FORMATS[subtask][0] for subtask in ANSWER_FORMATS.values()], texts)
