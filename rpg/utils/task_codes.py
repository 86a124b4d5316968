"""Task codes: a text of one 0 or 1 per class, class 0 first. A binary task separates the 1-classes from the rest.

A valid code has both a 0 and a 1. Ten classes have 1022 valid codes (RPG section 4, unseen tasks).
"""

import random
from collections.abc import Callable, Iterable

CLASSES = 10


def valid(code: str, classes: int = CLASSES) -> bool:
    """Return whether `code` is one of the 2^classes - 2 tasks."""
    return len(code) == classes and set(code) == {"0", "1"}


def of_number(number: int) -> str:
    """Return the code whose binary digits are the digits of `number`, 1 to 1022; the first digit is class 0."""
    code = f"{number:0{CLASSES}b}"
    assert valid(code)
    return code


def of_classes(chosen: Iterable[int], classes: int = CLASSES) -> str:
    """Return the code of the task that separates the classes with these indices from the rest."""
    indices = set(chosen)
    return "".join("1" if index in indices else "0" for index in range(classes))


def bits(code: str) -> list[float]:
    """Return the code as numbers, 0 or 1 per class."""
    return [float(bit) for bit in code]


def complement(code: str) -> str:
    """Return the code of the same task with swapped answers."""
    return code.translate(str.maketrans("01", "10"))


def distance(one: str, other: str) -> int:
    """Return the Hamming distance: the number of classes on which two codes differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))


def draw_seen(
    count: int, seed: int, held_out: list[str], allowed: Callable[[str], bool] = lambda code: True
) -> list[str]:
    """Return `count` `allowed` codes that are not held out.

    `seed` alone sets the order, so a larger `count` only appends codes. The complement of a held-out code is never seen
    either, because its network with swapped head rows solves the held-out task. Raises ValueError if too few codes are
    left.
    """
    excluded = {*held_out, *map(complement, held_out)}
    order = [of_number(number) for number in range(1, 2**CLASSES - 1)]
    random.Random(seed).shuffle(order)
    open_codes = [code for code in order if code not in excluded and allowed(code)]
    if count > len(open_codes):
        raise ValueError(f"only {len(open_codes)} codes are neither held out nor the complement of a held-out code")
    return open_codes[:count]
