"""Pack the texts of a batch into rows, so that training a language model wastes little on padding.

A padded batch uses as many tokens for every text as for its longest. transformers treats tokens whose `position_ids`
restart as another text, and it blocks attention between texts if the model keeps no cache. So loss and gradient equal
those of the padded batch.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# transformers' label for tokens that the loss ignores.
IGNORED = -100
# Maximum length of a row, as a multiple of the longest text. Longer rows cost attention and save little.
MAX_ROW_FACTOR = 2


@dataclass(frozen=True)
class Packed:
    """Packs a batch's texts, each with `input_ids` and `labels`, into rows and fills the rows with `pad`.

    A call with B texts returns the arguments of a model's `forward`: `input_ids`, `labels` and `position_ids`, all
    [rows, L] with at most B rows, and `use_cache` False. The first token of a text is no label, because nothing
    precedes it.
    """

    pad: int

    def __call__(self, texts: Sequence[dict[str, list[int]]]) -> dict[str, Tensor | bool]:
        # The import of transformers takes seconds, and only training needs it.
        from transformers import DataCollatorWithFlattening

        flatten = DataCollatorWithFlattening(separator_id=IGNORED)
        rows, length = pack([len(text["input_ids"]) for text in texts])
        flat = []
        for row in rows:
            texts_of_row = [texts[index] for index in row]
            # The padding is one more text, with labels that the loss ignores.
            if rest := length - sum(len(text["input_ids"]) for text in texts_of_row):
                texts_of_row.append({"input_ids": [self.pad] * rest, "labels": [IGNORED] * rest})
            flat.append(flatten(texts_of_row))
        return {**{name: torch.cat([row[name] for row in flat]) for name in flat[0]}, "use_cache": False}


def pack(lengths: Sequence[int]) -> tuple[list[list[int]], int]:
    """Return the texts of each row and the length of a row; the allowed length with the fewest tokens in total wins.

    The packing is best fit decreasing: each text, longest first, goes to the row with the least remaining room.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    longest, total = max(lengths), sum(lengths)
    best: tuple[list[list[int]], int] = [[index] for index in order], longest
    for length in range(longest, MAX_ROW_FACTOR * longest + 1):
        # Even a packing without gaps would not be better.
        if math.ceil(total / length) * length >= len(best[0]) * best[1]:
            continue
        rows: list[list[int]] = []
        # (remaining room, row), sorted.
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
