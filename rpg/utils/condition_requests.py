"""The values of the conditions for a requested network; this module needs no torch."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rpg.utils import task_codes
from rpg.utils.errors import UserError

# Name of a condition of the kind `vector` → its numbers.
Vectors = Mapping[str, Sequence[float]]
# The permutation states of a network, in equal shares. A single state is one training run of the zoo.
States = tuple[int, ...]
# Name of a condition → its values for one network.
Row = dict[str, list[float]]
# The fault of a request with images to a model that takes none.
NOT_ON_IMAGES = "the model was not trained on images; leave them out"
NOT_ON_QUESTIONS = "the model was not trained on questions; leave them out"
STATE, CODE = "permutation_state", "task_code"


def requested(
    table: Mapping[str, Any],
    pick: Callable[[int], int],
    fields: Sequence[str],
    states: States | None,
    code: str | None,
    vectors: Vectors | None = None,
    optional: Collection[str] = (),
) -> Row:
    """Return the values of a requested network.

    `table` maps conditions to their values [N, C], as lists or an array, for the zoo's N checkpoints. A checkpoint at
    random supplies what the request omits; `pick` returns a random index below its argument. The checkpoint is one of
    the requested states', and of these one of the nearest to the requested vectors. Otherwise a state would meet
    numbers that none of its checkpoints has. `fields` are the names of the conditions of the kind `vector`. A request
    for some vectors makes the omitted ones of `optional` unknown, NaN. Raises UserError for an unknown state or vector,
    and for a code if the model was not trained on codes.
    """
    count = len(next(iter(table.values())))
    chosen: Sequence[int] = range(count)
    if states is not None and fields and STATE in table:
        wanted = {state for state in states if 0 <= state < len(table[STATE][0])}
        chosen = [place for place, shares in enumerate(table[STATE]) if any(shares[s] for s in wanted)] or chosen
    chosen = _nearest(table, chosen, {name: of for name, of in (vectors or {}).items() if name in fields})
    place = chosen[pick(len(chosen))]
    row = {name: [float(number) for number in values[place]] for name, values in table.items()}
    if states is not None:
        if STATE not in row:
            raise UserError("the model has no permutation states to choose from; leave --state out")
        row[STATE] = _shares(states, len(row[STATE]))
    if code is not None:
        if CODE not in row:
            raise UserError("the model was not trained on task codes; leave the code, classes or description out")
        row[CODE] = task_codes.bits(code)
    for name, numbers in (vectors or {}).items():
        if name not in fields:
            raise UserError(f"--vector {name}: the model has no such vector; known: {', '.join(fields) or 'none'}")
        if len(numbers) != len(row[name]):
            raise UserError(f"--vector {name}: must have {len(row[name])} numbers, not {len(numbers)}")
        row[name] = list(numbers)
    for name in optional:
        if vectors and name not in vectors:
            row[name] = [math.nan] * len(row[name])
    return row


def _nearest(table: Mapping[str, Any], places: Sequence[int], vectors: Vectors) -> Sequence[int]:
    """Return the places of the checkpoints that are nearest to the requested vectors, in units of their ranges."""
    if not vectors:
        return places
    distances = dict.fromkeys(places, 0.0)
    for name, numbers in vectors.items():
        for number, column in zip(numbers, zip(*table[name], strict=True), strict=False):
            spread = float(max(column)) - float(min(column)) or 1.0
            for place in places:
                distances[place] += ((float(column[place]) - number) / spread) ** 2
    least = min(distances.values())
    return [place for place, distance in distances.items() if distance <= least + 1e-12]


def outside(table: Mapping[str, Any], vectors: Vectors | None) -> list[str]:
    """Return a line for each requested number outside of the range that the zoo's checkpoints have.

    `table` is that of `requested`, which refuses unknown vectors and other lengths.
    """
    lines = []
    for name, numbers in (vectors or {}).items():
        columns = zip(*table.get(name, ()), strict=True)
        for number, column in zip(numbers, columns, strict=False):
            least, most = float(min(column)), float(max(column))
            # The table has the precision of float32.
            room = 1e-6 * max(abs(least), abs(most))
            if not least - room <= number <= most + room:
                lines.append(f"{name}={number:g} is outside of {least:g} to {most:g}, the zoo's range; RPG guesses")
    return lines


def _shares(states: States, count: int) -> list[float]:
    for state in states:
        if not 0 <= state < count:
            raise UserError(f"state {state}: the zoo has states 0 to {count - 1}, one per seed")
    if len(set(states)) < len(states):
        raise UserError(f"states {', '.join(map(str, states))}: one is given twice; give each state once")
    return [1 / len(states) if state in states else 0.0 for state in range(count)]


def met(row: Row) -> tuple[States, str | None]:
    """Return the permutation states and the task code of a network with these values."""
    states = tuple(state for state, share in enumerate(row.get(STATE, [1.0])) if share)
    return states, "".join(str(int(bit)) for bit in row[CODE]) if CODE in row else None
