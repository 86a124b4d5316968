"""Texts of a batch packed side by side, so that a language model that is trained reads little but text.

Padded, every text of a batch takes as many tokens as its longest. Transformers takes tokens whose `position_ids` start
anew for those of another text, and lets none look at another's, if the model keeps no cache: loss and gradient are
those of the padded batch.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Labels that the loss leaves out, as transformers has them.
IGNORED = -100
# A row's tokens over those of the longest text, at most. Attention grows with it; beyond, little more is saved.
LONGEST = 2


@dataclass(frozen=True)
class Packed:
    """Puts a batch's texts, of `input_ids` and `labels` each, into rows; what is left of a row is filled with `pad`.

    Called with B texts it returns what a model's `forward` takes: `input_ids`, `labels` and `position_ids`, all [R, L],
    R ≤ B, and that no cache is to be kept. The first token of a text has nothing before it to be told from, so it is no
    label.
    """

    pad: int

    def __call__(self, texts: Sequence[dict[str, list[int]]]) -> dict[str, Tensor | bool]:
        # Where nothing is trained, nothing needs transformers, which takes seconds to import.
        from transformers import DataCollatorWithFlattening

        flatten = DataCollatorWithFlattening(separator_id=IGNORED)
        rows, length = pack([len(text["input_ids"]) for text in texts])
        flat = []
        for row in rows:
            of = [texts[index] for index in row]
            # One more text, of which there is nothing to learn.
            if rest := length - sum(len(text["input_ids"]) for text in of):
                of.append({"input_ids": [self.pad] * rest, "labels": [IGNORED] * rest})
            flat.append(flatten(of))
        return {**{name: torch.cat([row[name] for row in flat]) for name in flat[0]}, "use_cache": False}


def pack(lengths: Sequence[int]) -> tuple[list[list[int]], int]:
    """Which texts stand in each row, and a row's tokens: of those allowed, as many as make the fewest tokens of all.

    Best fit decreasing: each text, the longest first, goes where it leaves the least room.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    longest, total = max(lengths), sum(lengths)
    best: tuple[list[list[int]], int] = [[index] for index in order], longest
    for length in range(longest, LONGEST * longest + 1):
        # Not even without a gap.
        if math.ceil(total / length) * length >= len(best[0]) * best[1]:
            continue
        rows: list[list[int]] = []
        # What is left of each row, in order, and the row.
        room: list[tuple[int, int]] = []
        for index in order:
            place = bisect_left(room, (lengths[index], 0))
            if place == len(room):
                rows.append([])
                left, row = length, len(rows) - 1
            else:
                left, row = room.pop(place)
            rows[row].append(index)
            insort(room, (left - lengths[index], row))
        if len(rows) * length < len(best[0]) * best[1]:
            best = rows, length
    return best
