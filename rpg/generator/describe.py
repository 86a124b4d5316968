"""Translate a sentence to a task code: "even numbers" → 1010101010.

Without a language model, a lexicon of each data set's classes and categories translates. Adjacent words intersect
("flying animals"), `and`, `or` and commas add classes, and `not`, `except`, `without` or `but` remove the classes of
the words after them. A language model answers for each class whether the sentence means the class; the result is the
most probable valid code.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rpg.data import CLASSES
from rpg.utils import task_codes
from rpg.utils.errors import UserError

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = set(range(10))
# Data set → word or phrase, in singular if it has one → its classes.
LEXICON: dict[str, dict[str, set[int]]] = {
    "digits": {
        **{name: {number} for number, name in enumerate(NUMBERS)},
        **{str(number): {number} for number in DIGITS},
        "even": {0, 2, 4, 6, 8},
        "odd": {1, 3, 5, 7, 9},
        "prime": {2, 3, 5, 7},
        "composite": {4, 6, 8, 9},
        "square": {0, 1, 4, 9},
        "cube": {0, 1, 8},
        "fibonacci": {0, 1, 2, 3, 5, 8},
        "power of two": {1, 2, 4, 8},
        "small": {0, 1, 2, 3, 4},
        "large": {5, 6, 7, 8, 9},
        "big": {5, 6, 7, 8, 9},
        "positive": DIGITS - {0},
        "round": {0, 3, 6, 8, 9},
        "with hole": {0, 4, 6, 8, 9},
        "with loop": {0, 6, 8, 9},
    },
    "cifar10": {
        **{name: {index} for index, name in enumerate(CLASSES["cifar10"])},
        "plane": {0},
        "aeroplane": {0},
        "aircraft": {0},
        "car": {1},
        "kitten": {3},
        "puppy": {5},
        "toad": {6},
        "pony": {7},
        "boat": {8},
        "lorry": {9},
        "animal": {2, 3, 4, 5, 6, 7},
        "living": {2, 3, 4, 5, 6, 7},
        "living thing": {2, 3, 4, 5, 6, 7},
        "creature": {2, 3, 4, 5, 6, 7},
        "mammal": {3, 4, 5, 7},
        "pet": {3, 5},
        "wild animal": {2, 4, 6},
        "farm animal": {7},
        "predator": {3, 5},
        "hoofed": {4, 7},
        "amphibian": {6},
        "four-legged": {3, 4, 5, 6, 7},
        "vehicle": {0, 1, 8, 9},
        "machine": {0, 1, 8, 9},
        "artificial": {0, 1, 8, 9},
        "man-made": {0, 1, 8, 9},
        "with wheel": {0, 1, 9},
        "on the road": {1, 9},
        "on road": {1, 9},
        "road vehicle": {1, 9},
        "flying": {0, 2},
        "can fly": {0, 2},
        "with wing": {0, 2},
        "can swim": {6, 8},
        "on water": {8},
    },
}
# Phrases for a range in a description of digits → the range's members.
RANGES: list[tuple[str, Callable[[int, int], set[int]]]] = [
    (r"(?:greater|larger|bigger|more|higher) than (\w+)|(?:above|over) (\w+)", lambda n, _: set(range(n + 1, 10))),
    (r"(?:less|smaller|fewer|lower) than (\w+)|(?:below|under) (\w+)", lambda n, _: set(range(n))),
    (r"at least (\w+)|(\w+) or (?:more|greater|larger)", lambda n, _: set(range(n, 10))),
    (r"at most (\w+)|up to (\w+)|(\w+) or (?:less|smaller)", lambda n, _: set(range(n + 1))),
    (r"(?:from|between) (\w+) (?:to|and) (\w+)|(\w+) to (\w+)", lambda n, m: set(range(min(n, m), max(n, m) + 1))),
    (r"(?:multiples?|divisible) (?:of|by) (\w+)", lambda n, _: {digit for digit in DIGITS if n and digit % n == 0}),
]
ADD = {"and", "or", ",", "plus", "also"}
REMOVE = {"not", "no", "except", "without", "excluding", "but", "minus", "neither", "nor"}
FILLER = re.findall(
    r"\w+",
    "a an the all any every each everything anything of is are that which who be it they them this these those thing"
    " things number numbers numeral numerals digit digits image images picture pictures photo photos class classes"
    " kind kinds show showing find tell recognise recognize me please only just for have has having",
)
PROMPT = """\
Does the description mean the thing?
description: animals with feathers; thing: sparrow; answer: yes
description: animals with feathers; thing: bicycle; answer: no
description: numbers above one hundred; thing: 7; answer: no
description: numbers above one hundred; thing: 250; answer: yes
description: {sentence}; thing: {name}; answer:"""


def describe(sentence: str, data: str, language_model: Path | None = None) -> str:
    """Return the task code for `sentence` in the data set `data`.

    Raises UserError if the lexicon lacks a word, if the sentence matches no class or every class, or if the folder
    `language_model` is given and holds no language model. The error lists the known words.
    """
    if not sentence.strip():
        raise UserError("--describe: the sentence is empty; describe the classes, as 'even numbers'")
    if language_model:
        scores = class_scores(language_model, sentence, CLASSES[data])
        return likeliest(scores)
    code = task_codes.of_classes(_look_up(sentence, data))
    if not task_codes.valid(code):
        raise UserError(f"--describe: '{sentence}' matches {'every' if '1' in code else 'no'} class; {_known(data)}")
    return code


def likeliest(scores: Sequence[float]) -> str:
    """Return the most probable valid code from one log odds per class.

    The bits are independent, so each bit is the sign of its log odds. If all bits agree, the least certain bit flips.
    """
    chosen = {index for index, score in enumerate(scores) if score > 0}
    if len(chosen) in (0, len(scores)):
        chosen ^= {min(range(len(scores)), key=lambda index: abs(scores[index]))}
    return task_codes.of_classes(chosen, len(scores))


def class_scores(folder: Path, sentence: str, names: Sequence[str]) -> list[float]:
    """Ask the language model in `folder` if `sentence` means each class; return log p(yes) - log p(no) per class."""
    import torch

    tokenizer, model = _language_model(folder)
    yes, no = (tokenizer(f" {word}", add_special_tokens=False).input_ids[-1] for word in ("yes", "no"))
    scores = []
    for name in names:
        prompt = tokenizer(PROMPT.format(sentence=sentence, name=name), return_tensors="pt")
        with torch.inference_mode():
            last_V = model(input_ids=prompt.input_ids).logits[0, -1].float()
        scores.append(float(last_V[yes] - last_V[no]))
    return scores


@cache
def _language_model(folder: Path) -> tuple[Any, Any]:
    try:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise UserError("--describe with a language model needs transformers; install rpg-weights[language]") from error
    if not (folder / "config.json").is_file():
        raise UserError(f"params.yaml: language_model: {folder} holds no Hugging Face model; null uses the lexicon")
    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        message = " ".join(str(error).split())[:200]
        raise UserError(f"params.yaml: language_model: {folder} cannot be loaded ({message})") from error
    return tokenizer, model.eval()


def _look_up(sentence: str, data: str) -> set[int]:
    lexicon, text = dict(LEXICON[data]), re.sub(r"\b(?:other|apart|aside) (?:than|from)\b", "except", sentence.lower())
    # "not cats but dogs" means dogs; "everything but dogs" does not.
    text = re.sub(r"\bnot\b([^,]*)\bbut\b(.*)", r"\2 except \1", text)
    if data == "digits":
        text = _name_ranges(text, lexicon)
    words = re.findall(r"[\w-]+|,", text)
    added: list[set[int]] = []
    removed: set[int] = set()
    # The classes that all words since the last connective mean; None before the first word.
    term: set[int] | None = None
    removing = False
    position = 0

    def close() -> None:
        nonlocal removed
        if term is not None and removing:
            removed |= term
        elif term is not None:
            added.append(term)

    while position < len(words):
        word = words[position]
        length, classes = _longest_phrase(words[position:], lexicon)
        if classes is not None:
            term = classes if term is None else term & classes
            position += length
            continue
        if word in ADD or word in REMOVE:
            close()
            term = None
            # "not cats and dogs" removes both.
            removing = removing or word in REMOVE
        elif word not in FILLER:
            raise UserError(f"--describe: '{word}' is not known for {data}; {_known(data)}")
        position += 1
    close()
    # A sentence without added classes, as "not cats" or "everything", starts from all classes.
    everything = set(range(len(CLASSES[data])))
    return (set().union(*added) if added else everything) - removed


def _longest_phrase(words: list[str], lexicon: dict[str, set[int]]) -> tuple[int, set[int] | None]:
    """Return the length of the longest leading phrase in the lexicon, singular or plural, and the phrase's classes."""
    for length in range(min(4, len(words)), 0, -1):
        phrase = " ".join(words[:length])
        for form in (phrase, phrase.removesuffix("s"), phrase.removesuffix("es"), re.sub("ies$", "y", phrase)):
            if form in lexicon:
                return length, lexicon[form]
    return 0, None


def _name_ranges(text: str, lexicon: dict[str, set[int]]) -> str:
    """Replace phrases such as "greater than five" by a new word, and add the word to the lexicon."""
    number = "|".join([*NUMBERS, r"\d"])
    for index, (pattern, members) in enumerate(RANGES):
        for count, phrase in enumerate(re.finditer(pattern.replace(r"\w+", rf"\b(?:{number})\b"), text)):
            values = [NUMBERS.index(group) if group in NUMBERS else int(group) for group in phrase.groups() if group]
            word = f"range-{index}-{count}"
            lexicon[word] = members(values[0], values[-1])
            text = text.replace(phrase.group(), f" {word} ", 1)
    return text


def _known(data: str) -> str:
    return f"it knows: {', '.join(LEXICON[data])}, joined by and, or, not, except"
