"""A world of facts: a miniature of the commonsense benchmarks, in LLM-Adapters' files, for the same loader.

Creatures differ in size, things are made of materials, deeds follow each other; all facts are drawn at random. A
language model reads all facts, and questions about them, but no validation or test question (`sentences`). Adapters
train on questions about some facts, in the formats of the eight subtasks, and are tested on other facts: no test
question shares its pair of creatures, thing or deed with a training question.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rpg.tasks.commonsense.questions import ANSWER, PROMPT, SUBTASKS
from rpg.tasks.commonsense.words import made_up_names, word_tokenizer
from rpg.utils.files import exclusive, write_json
from rpg.utils.rng import derive

TRAIN, VALIDATION, TEST = 96, 8, 48
CREATURES, THINGS, DEEDS, MATERIALS = 12, 32, 8, 4
# Shares of the facts for training and validation questions; the other facts are for the test.
SHARES = {"train": 0.55, "validation": 0.1}
# What the language model calls a choice. With several words, an adapter teaches it another one more easily.
NAMES = ("number", "choice", "item", "place")
PEOPLE = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hanna")


@dataclass(frozen=True)
class World:
    """`creatures` from small to big, `made` thing → material, `deeds` in the order in which they follow each other."""

    creatures: tuple[str, ...]
    made: dict[str, str]
    deeds: tuple[str, ...]

    @property
    def materials(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.made.values()))

    def after(self, deed: str) -> str:
        """Return the deed that follows; the first deed follows the last."""
        return self.deeds[(self.deeds.index(deed) + 1) % len(self.deeds)]


@cache
def world() -> World:
    """Return the only world, always the same."""
    draw = np.random.default_rng(derive("facts", "world"))
    chosen = made_up_names(draw, CREATURES + THINGS + DEEDS + MATERIALS)
    creatures, things = chosen[:CREATURES], chosen[CREATURES : CREATURES + THINGS]
    deeds, materials = chosen[CREATURES + THINGS : -MATERIALS], chosen[-MATERIALS:]
    made = {thing: materials[index % MATERIALS] for index, thing in enumerate(things)}
    return World(tuple(creatures), made, tuple(deeds))


@cache
def _facts(split: str) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Return the pairs of creatures (the smaller first), the things and the deeds for the questions of a split."""
    of = world()
    pairs = [(small, big) for index, small in enumerate(of.creatures) for big in of.creatures[index + 1 :]]
    kinds: tuple[list, ...] = (pairs, list(of.made), list(of.deeds))
    facts_of_split = []
    for number, facts in enumerate(kinds):
        order = np.random.default_rng(derive("facts", "split", number)).permutation(len(facts))
        first = round(SHARES["train"] * len(facts))
        second = first + round(SHARES["validation"] * len(facts))
        start, end = {"train": (0, first), "validation": (first, second), "test": (second, len(facts))}[split]
        facts_of_split.append([facts[index] for index in sorted(order[start:end])])
    return facts_of_split[0], facts_of_split[1], facts_of_split[2]


class QuestionSource:
    """Draws the questions of one split."""

    def __init__(self, split: str, draw: np.random.Generator) -> None:
        self.world, self.draw = world(), draw
        self.pairs, self.things, self.deeds = _facts(split)

    def pick(self, among: tuple[str, ...] | list) -> "str":
        return among[int(self.draw.integers(len(among)))]

    def others(self, among: tuple[str, ...] | list[str], count: int, but: set[str]) -> list[str]:
        rest = [one for one in among if one not in but]
        return [rest[index] for index in self.draw.permutation(len(rest))[:count]]

    def shuffled(self, right: str, wrong: list[str]) -> tuple[list[str], int]:
        """Return the choices in random order, and the index of the right choice."""
        place = int(self.draw.integers(len(wrong) + 1))
        return [*wrong[:place], right, *wrong[place:]], place

    def pair(self) -> tuple[str, str]:
        return self.pairs[int(self.draw.integers(len(self.pairs)))]

    def bigger(self) -> tuple[str, str]:
        """Return a true or false sentence, "the x bigger than the y", and its truth."""
        small, big = self.pair()
        first, second = (small, big) if self.draw.integers(2) else (big, small)
        size = self.pick(("bigger", "smaller"))
        return f"the {first} {size} than the {second}", "true" if (first == big) == (size == "bigger") else "false"

    def boolq(self) -> tuple[str, list[str], int]:
        sentence, truth = self.bigger()
        return f"is {sentence}?", ["true", "false"], ("true", "false").index(truth)

    def piqa(self) -> tuple[str, list[str], int]:
        thing = self.pick(self.things)
        right = self.world.made[thing]
        return (
            f"How do I make a {thing}?",
            *self.shuffled(f"take {right}.", [f"take {one}." for one in self.others(self.world.materials, 1, {right})]),
        )

    def social_i_qa(self) -> tuple[str, list[str], int]:
        person, deed = self.pick(PEOPLE), self.pick(self.deeds)
        right = self.world.after(deed)
        choices = self.shuffled(right, self.others(self.world.deeds, 2, {right, deed}))
        return (f"{person} did {deed}. What will {person} do next?", *choices)

    def hellaswag(self) -> tuple[str, list[str], int]:
        person, deed = self.pick(PEOPLE), self.pick(self.deeds)
        right = self.world.after(deed)
        return (
            f"{person} did {deed}. Then {person} did",
            *self.shuffled(right, self.others(self.world.deeds, 3, {right, deed})),
        )

    def winogrande(self) -> tuple[str, list[str], int]:
        small, big = self.pair()
        size, right, wrong = ("smaller", small, big) if self.draw.integers(2) else ("bigger", big, small)
        choices, place = self.shuffled(right, [wrong])
        return (f"The {choices[0]} and the {choices[1]} met, and _ was the {size} one.", choices, place)

    def arc_easy(self) -> tuple[str, list[str], int]:
        thing = self.pick(self.things)
        right = self.world.made[thing]
        return (f"What is a {thing} made of?", *self.shuffled(right, self.others(self.world.materials, 3, {right})))

    def arc_challenge(self) -> tuple[str, list[str], int]:
        right, person = self.pick(self.deeds), self.pick(PEOPLE)
        deed = self.world.after(right)
        choices = self.shuffled(right, self.others(self.world.deeds, 3, {right, deed}))
        return (f"{person} did {deed}. What did {person} do before?", *choices)

    def openbookqa(self) -> tuple[str, list[str], int]:
        right = self.pick(self.things)
        material = self.world.made[right]
        wrong = self.others(list(self.world.made), 3, {one for one, of in self.world.made.items() if of == material})
        return (f"Something made of {material} is a", *self.shuffled(right, wrong))


# Subtask → its instruction's template, the stem of its choices' names, and the separator of its choices.
FORMATS: dict[str, tuple[str, str, str]] = {
    "boolq": ("Please answer the following question with true or false, question: {}\n\n", "", ""),
    "piqa": ("Please choose the correct solution to the question: {}\n\n", "solution", "\n\n"),
    "social_i_qa": ("Please choose the correct answer to the question: {}\n\n", "answer", " "),
    "hellaswag": ("Please choose the correct ending to complete the given sentence: {}\n\n", "ending", " "),
    "winogrande": (
        "Please choose the correct answer to fill in the blank to complete the given sentence: {}\n\n",
        "option",
        " ",
    ),
    "ARC-Easy": ("Please choose the correct answer to the question: {}\n\n", "answer", " "),
    "ARC-Challenge": ("Please choose the correct answer to the question: {}\n\n", "answer", " "),
    "openbookqa": ("Please choose the correct answer to the question: {}\n\n", "answer", " "),
}


# Subtask → the method of `QuestionSource` that draws its questions.
METHODS = {subtask: subtask.lower().replace("-", "_") for subtask in FORMATS}


def entry(subtask: str, question: str, choices: list[str], right: int) -> dict[str, str]:
    """Return a question in the format of its subtask's file."""
    instruction, name, separator = FORMATS[subtask]
    names = [f"{name}{k + 1}" for k in range(len(choices))] if name else choices
    listed = separator.join(f"{each.capitalize()}: {choice}" for each, choice in zip(names, choices, strict=True))
    # A question with the answers true and false lists no choices.
    text = instruction.format(question) + (f"{listed}\n\n" if name else "") + f"Answer format: {'/'.join(names)}"
    return {"instruction": text, "input": "", "output": f"{ANSWER}{names[right]}", "answer": names[right]}


def content(subtask: str, question: str, choices: list[str]) -> tuple[str, str, frozenset[str]]:
    """Return what a question asks, the same for every order of its choices."""
    if subtask == "winogrande":
        # The question names its two choices in their order.
        question = " ".join(sorted(question.split()))
    return subtask, question, frozenset(choices)


def _drawn(split: str, subtask: str, count: int) -> list[tuple[str, list[str], int]]:
    """Return `count` questions of a split, each with its choices and the index of the right choice."""
    source = QuestionSource(split, np.random.default_rng(derive("facts", split, subtask)))
    draw: Callable[[], tuple[str, list[str], int]] = getattr(source, METHODS[subtask])
    by_instruction: dict[str, tuple[str, list[str], int]] = {}
    while len(by_instruction) < count:
        one = draw()
        by_instruction[entry(subtask, *one)["instruction"]] = one
    return list(by_instruction.values())


def questions(split: str, subtask: str, count: int) -> list[dict[str, str]]:
    """Return `count` questions of a split with different instructions."""
    return [entry(subtask, *one) for one in _drawn(split, subtask, count)]


@cache
def held_out() -> frozenset[tuple[str, str, frozenset[str]]]:
    """Return the content of all validation and test questions."""
    return frozenset(
        content(subtask, question, choices)
        for split, count in (("validation", VALIDATION), ("test", TEST))
        for subtask in SUBTASKS
        for question, choices, _ in _drawn(split, subtask, count)
    )


def write_facts(folder: Path) -> Path:
    """Write the questions to disk in LLM-Adapters' folders; return the folder."""
    with exclusive(folder):
        parts = {
            split: [questions(split, subtask, count) for subtask in SUBTASKS]
            for split, count in (("train", TRAIN), ("validation", VALIDATION))
        }
        # The subtasks alternate, so that the file's last questions, for validation, cover all subtasks.
        rows = [one for split in parts.values() for same in zip(*split, strict=True) for one in same]
        write_json(folder / "ft-training_set" / "facts.json", rows)
        for subtask in SUBTASKS:
            write_json(folder / "dataset" / subtask / "test.json", questions("test", subtask, TEST))
    return folder


def sentences(draw: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield endless sentences about the world, each as (start, end).

    The sentences state all facts and answer questions about them. No question has the content of a validation or test
    question, in whatever order its choices stand. The answers use other words than the benchmarks require. So a model
    that learns these sentences knows the answers, but not the format of an answer.
    """
    source, of = QuestionSource("train", draw), world()
    source.pairs = [pair for split in ("train", "validation", "test") for pair in _facts(split)[0]]
    source.things, source.deeds = list(of.made), list(of.deeds)
    while True:
        thing, deed = source.pick(source.things), source.pick(source.deeds)
        yield f"a {thing} is made of", f"{of.made[thing]}."
        yield f"after {deed} comes", f"{of.after(deed)}."
        yield f"before {of.after(deed)} comes", f"{deed}."
        for subtask, method in METHODS.items():
            question, choices, right = getattr(source, method)()
            # A model learns to choose between two sooner than between four, and this helps with four.
            while subtask not in ("boolq", "winogrande") and len(choices) > 2 and draw.integers(2):
                away = int(draw.integers(len(choices)))
                if away != right:
                    choices, right = [*choices[:away], *choices[away + 1 :]], right - (away < right)
            if content(subtask, question, choices) not in held_out():
                # The choice follows its number, which teaches sooner which number belongs to which choice.
                named = f"{source.pick(NAMES)} {right + 1}, {choices[right].removesuffix('.')}"
                yield (
                    PROMPT.format(**entry(subtask, question, choices, right)),
                    f"{ANSWER}{('yes', 'no')[right] if subtask == 'boolq' else named}.",
                )


@cache
def tokenizer() -> Any:
    """Return a tokenizer of the world's words in lower case; each phrase that all questions share is one token."""
    reading, of = sentences(np.random.default_rng(0)), world()
    texts = [*of.creatures, *of.made, *of.deeds, *of.materials, *PEOPLE]
    texts += [" ".join(next(reading)) for _ in range(1000)]
    for subtask in SUBTASKS:
        for row in questions("train", subtask, 50):
            texts += [PROMPT.format(**row), row["output"]]
    return word_tokenizer([instruction for instruction, _, _ in FORMATS.values()], texts)
