"""Task codes: which classes a binary task tells from the rest, as text of one 0 or 1 per class, class 0 first.

A code is valid if it has both a 0 and a 1; with ten classes there are 1022 (RPG section 4, unseen tasks).
"""

import random
from collections.abc import Iterable

CLASSES = 10


def valid(code: str, classes: int = CLASSES) -> bool:
    """Whether `code` is one of the 2^classes - 2 tasks."""
    return len(code) == classes and set(code) == {"0", "1"}


def of_number(number: int) -> str:
    """The code whose binary digits are those of `number`, 1 to 1022; the first digit is class 0."""
    code = f"{number:0{CLASSES}b}"
    assert valid(code)
    return code


def of_classes(chosen: Iterable[int], classes: int = CLASSES) -> str:
    """The code of the task that tells the classes with these indices from the rest."""
    indices = set(chosen)
    return "".join("1" if index in indices else "0" for index in range(classes))


def bits(code: str) -> list[float]:
    """The code as numbers, 0 or 1 per class."""
    return [float(bit) for bit in code]


def complement(code: str) -> str:
    """The same task with the answer turned round."""
    return code.translate(str.maketrans("01", "10"))


def distance(one: str, other: str) -> int:
    """Hamming distance: the number of classes on which two codes differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))


def draw_seen(count: int, seed: int, held_out: list[str]) -> list[str]:
    """`count` codes that are not held out, in an order that `seed` alone decides, so more of them only adds some.

    The complement of a held-out code is never seen either: its network, with the two rows of its head exchanged, would
    solve the held-out task. ValueError if there are not so many.
    """
    closed = {*held_out, *map(complement, held_out)}
    order = [of_number(number) for number in range(1, 2**CLASSES - 1)]
    random.Random(seed).shuffle(order)
    open_codes = [code for code in order if code not in closed]
    if count > len(open_codes):
        raise ValueError(f"only {len(open_codes)} codes are neither held out nor the complement of a held-out one")
    return open_codes[:count]
