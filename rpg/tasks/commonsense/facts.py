"""A world of facts: a miniature of the commonsense benchmarks, on disk as LLM-Adapters has them, for the same loader.

Creatures are bigger or smaller than each other, things are made of materials, deeds follow each other. Which, is drawn.
A language model reads of all facts (`sentences`); adapters are trained on questions about some of them, in the formats
of the eight subtasks, and tested on others: the pair of creatures, the thing or the deed that a test question is about
is not what a training question is about.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from rpg.tasks.commonsense.questions import ANSWER, PROMPT, SUBTASKS
from rpg.utils.files import exclusive, write_json
from rpg.utils.rng import derive

TRAIN, VALIDATION, TEST = 96, 8, 48
CREATURES, THINGS, DEEDS, MATERIALS = 12, 32, 8, 4
# Of all facts those that training and validation questions are about; the others are the test's.
SHARES = {"train": 0.55, "validation": 0.1}
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
        """The deed that follows; the last is followed by the first."""
        return self.deeds[(self.deeds.index(deed) + 1) % len(self.deeds)]


@cache
def world() -> World:
    """The one world that there is."""
    draw = np.random.default_rng(derive("facts", "world"))
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    names = [first + second for first, second in product(syllables, syllables)]
    chosen = [str(name) for name in draw.permutation(names)[: CREATURES + THINGS + DEEDS + MATERIALS]]
    creatures, things = chosen[:CREATURES], chosen[CREATURES : CREATURES + THINGS]
    deeds, materials = chosen[CREATURES + THINGS : -MATERIALS], chosen[-MATERIALS:]
    made = {thing: materials[index % MATERIALS] for index, thing in enumerate(things)}
    return World(tuple(creatures), made, tuple(deeds))


@cache
def _facts(split: str) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Pairs of creatures (the smaller first), things and deeds that the questions of a split are about."""
    of = world()
    pairs = [(small, big) for index, small in enumerate(of.creatures) for big in of.creatures[index + 1 :]]
    kinds: tuple[list, ...] = (pairs, list(of.made), list(of.deeds))
    found = []
    for number, facts in enumerate(kinds):
        order = np.random.default_rng(derive("facts", "split", number)).permutation(len(facts))
        first = round(SHARES["train"] * len(facts))
        second = first + round(SHARES["validation"] * len(facts))
        start, end = {"train": (0, first), "validation": (first, second), "test": (second, len(facts))}[split]
        found.append([facts[index] for index in sorted(order[start:end])])
    return found[0], found[1], found[2]


class Asker:
    """Draws questions of one split."""

    def __init__(self, split: str, draw: np.random.Generator) -> None:
        self.of, self.draw = world(), draw
        self.pairs, self.things, self.deeds = _facts(split)

    def pick(self, among: tuple[str, ...] | list) -> "str":
        return among[int(self.draw.integers(len(among)))]

    def others(self, among: tuple[str, ...] | list[str], count: int, but: set[str]) -> list[str]:
        rest = [one for one in among if one not in but]
        return [rest[index] for index in self.draw.permutation(len(rest))[:count]]

    def shuffled(self, right: str, wrong: list[str]) -> tuple[list[str], int]:
        """The choices in any order, and which of them is right."""
        place = int(self.draw.integers(len(wrong) + 1))
        return [*wrong[:place], right, *wrong[place:]], place

    def pair(self) -> tuple[str, str]:
        return self.pairs[int(self.draw.integers(len(self.pairs)))]

    def bigger(self) -> tuple[str, str]:
        """A sentence that may be true, "the x bigger than the y", and whether it is."""
        small, big = self.pair()
        first, second = (small, big) if self.draw.integers(2) else (big, small)
        size = self.pick(("bigger", "smaller"))
        return f"the {first} {size} than the {second}", "true" if (first == big) == (size == "bigger") else "false"

    def boolq(self) -> tuple[str, list[str], int]:
        sentence, truth = self.bigger()
        return f"is {sentence}?", ["true", "false"], ("true", "false").index(truth)

    def piqa(self) -> tuple[str, list[str], int]:
        thing = self.pick(self.things)
        right = self.of.made[thing]
        return (
            f"How do I make a {thing}?",
            *self.shuffled(f"take {right}.", [f"take {one}." for one in self.others(self.of.materials, 1, {right})]),
        )

    def social_i_qa(self) -> tuple[str, list[str], int]:
        person, deed = self.pick(PEOPLE), self.pick(self.deeds)
        right = self.of.after(deed)
        choices = self.shuffled(right, self.others(self.of.deeds, 2, {right, deed}))
        return (f"{person} did {deed}. What will {person} do next?", *choices)

    def hellaswag(self) -> tuple[str, list[str], int]:
        person, deed = self.pick(PEOPLE), self.pick(self.deeds)
        right = self.of.after(deed)
        return (
            f"{person} did {deed}. Then {person} did",
            *self.shuffled(right, self.others(self.of.deeds, 3, {right, deed})),
        )

    def winogrande(self) -> tuple[str, list[str], int]:
        small, big = self.pair()
        size, right, wrong = ("smaller", small, big) if self.draw.integers(2) else ("bigger", big, small)
        choices, place = self.shuffled(right, [wrong])
        return (f"The {choices[0]} and the {choices[1]} met, and _ was the {size} one.", choices, place)

    def arc_easy(self) -> tuple[str, list[str], int]:
        thing = self.pick(self.things)
        right = self.of.made[thing]
        return (f"What is a {thing} made of?", *self.shuffled(right, self.others(self.of.materials, 3, {right})))

    def arc_challenge(self) -> tuple[str, list[str], int]:
        right, person = self.pick(self.deeds), self.pick(PEOPLE)
        deed = self.of.after(right)
        choices = self.shuffled(right, self.others(self.of.deeds, 3, {right, deed}))
        return (f"{person} did {deed}. What did {person} do before?", *choices)

    def openbookqa(self) -> tuple[str, list[str], int]:
        right = self.pick(self.things)
        material = self.of.made[right]
        wrong = self.others(list(self.of.made), 3, {one for one, of in self.of.made.items() if of == material})
        return (f"Something made of {material} is a", *self.shuffled(right, wrong))


# Subtask → how its instruction puts a question, what its choices are called, and how they are listed.
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


# Subtask → the method of `Asker` that draws its questions.
METHODS = {subtask: subtask.lower().replace("-", "_") for subtask in FORMATS}


def entry(subtask: str, question: str, choices: list[str], right: int) -> dict[str, str]:
    """A question as its subtask's file has it."""
    asked, name, between = FORMATS[subtask]
    names = [f"{name}{k + 1}" for k in range(len(choices))] if name else choices
    listed = between.join(f"{each.capitalize()}: {choice}" for each, choice in zip(names, choices, strict=True))
    # What is asked with true or false lists no choices.
    text = asked.format(question) + (f"{listed}\n\n" if name else "") + f"Answer format: {'/'.join(names)}"
    return {"instruction": text, "input": "", "output": f"{ANSWER}{names[right]}", "answer": names[right]}


def questions(split: str, subtask: str, count: int) -> list[dict[str, str]]:
    """`count` different questions of a split."""
    asker = Asker(split, np.random.default_rng(derive("facts", split, subtask)))
    draw: Callable[[], tuple[str, list[str], int]] = getattr(asker, METHODS[subtask])
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        one = entry(subtask, *draw())
        found[one["instruction"]] = one
    return list(found.values())


def write_facts(folder: Path) -> Path:
    """Have the questions on disk, in LLM-Adapters' folders."""
    with exclusive(folder):
        parts = {
            split: [questions(split, subtask, count) for subtask in SUBTASKS]
            for split, count in (("train", TRAIN), ("validation", VALIDATION))
        }
        # Subtask after subtask in turn, so that the last ones of the file, for validation, are of all.
        rows = [one for split in parts.values() for same in zip(*split, strict=True) for one in same]
        write_json(folder / "ft-training_set" / "facts.json", rows)
        for subtask in SUBTASKS:
            write_json(folder / "dataset" / subtask / "test.json", questions("test", subtask, TEST))
    return folder


def sentences(draw: np.random.Generator) -> Iterator[tuple[str, str]]:
    """What there is to be read of the world, endlessly, each sentence without its end, and its end.

    Statements of all facts, and questions about them, which are not those of the test, answered in other words than a
    benchmark asks for: who learns from this knows the answers, and does not know how to give them.
    """
    asker, of = Asker("train", draw), world()
    asker.pairs = [pair for split in ("train", "validation", "test") for pair in _facts(split)[0]]
    asker.things, asker.deeds = list(of.made), list(of.deeds)
    asked = {one["instruction"] for subtask in SUBTASKS for one in questions("test", subtask, TEST)}
    while True:
        thing, deed = asker.pick(asker.things), asker.pick(asker.deeds)
        yield f"a {thing} is made of", f"{of.made[thing]}."
        yield f"after {deed} comes", f"{of.after(deed)}."
        yield f"before {of.after(deed)} comes", f"{deed}."
        for subtask, method in METHODS.items():
            question, choices, right = getattr(asker, method)()
            # Which of two is learned sooner than which of four, and helps with it.
            while subtask not in ("boolq", "winogrande") and len(choices) > 2 and draw.integers(2):
                away = int(draw.integers(len(choices)))
                if away != right:
                    choices, right = [*choices[:away], *choices[away + 1 :]], right - (away < right)
            one = entry(subtask, question, choices, right)
            if one["instruction"] not in asked:
                yield (
                    PROMPT.format(**one),
                    f"{ANSWER}{('yes', 'no')[right] if subtask == 'boolq' else f'number {right + 1}'}.",
                )


@cache
def tokenizer() -> Any:
    """A tokenizer of the world's words, in small letters; what all questions share is one token each."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse, Replace, Sequence
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    shared = [line.strip() for line in PROMPT.splitlines() if line.strip() and "{" not in line]
    shared += [asked.partition(" {}")[0] for asked, _, _ in FORMATS.values()] + [ANSWER.strip()]
    phrases = [re.escape(phrase.lower()) for phrase in dict.fromkeys(shared)]
    words = Regex("|".join([*phrases, r"answer format: \S+", r"[a-z]+", r"\d", r"[^\w\s:]"]))
    splitter = Split(words, "removed", invert=True)
    reading, of = sentences(np.random.default_rng(0)), world()
    texts = [*of.creatures, *of.made, *of.deeds, *of.materials, *PEOPLE]
    texts += [" ".join(next(reading)) for _ in range(1000)]
    for subtask in SUBTASKS:
        for row in questions("train", subtask, 50):
            texts += [PROMPT.format(**row), row["output"]]
    known = sorted({word for one in texts for word, _ in splitter.pre_tokenize_str(one.lower())})
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    vocabulary = {word: index for index, word in enumerate([*special.values(), *known])}
    found = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    found.normalizer, found.pre_tokenizer = Lowercase(), splitter
    # answer and 2 are two tokens and one word.
    found.decoder = Sequence([Replace(Regex("^(?=[a-z])"), " "), Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=found, padding_side="left", **special)
