"""The values of the conditions for a requested network; this module needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rpg.utils import task_codes
from rpg.utils.errors import UserError

# Name of a condition of the kind `vector` → its numbers.
Vectors = Mapping[str, Sequence[float]]
# The permutation states of a network, in equal shares. A single state is one training run of the zoo.
States = tuple[int, ...]
# Name of a condition → its values for one network.
Row = dict[str, list[float]]
STATE, CODE = "permutation_state", "task_code"


def requested(
    table: Mapping[str, Any],
    pick: Callable[[int], int],
    fields: Sequence[str],
    states: States | None,
    code: str | None,
    vectors: Vectors | None = None,
) -> Row:
    """Return the values of a requested network.

    `table` maps conditions to their values [N, C], as lists or an array, for the zoo's N checkpoints. A checkpoint at
    random supplies what the request omits; `pick` returns a random index below its argument. Vectors go with the state:
    if states are requested, the checkpoint is one of theirs. `fields` are the names of the conditions of the kind
    `vector`. Raises UserError for an unknown state or vector, and for a code if the model was not trained on codes.
    """
    count = len(next(iter(table.values())))
    chosen: Sequence[int] = range(count)
    if states is not None and fields and STATE in table:
        wanted = {state for state in states if 0 <= state < len(table[STATE][0])}
        chosen = [place for place, shares in enumerate(table[STATE]) if any(shares[s] for s in wanted)] or chosen
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
    return row


def outside(table: Mapping[str, Any], vectors: Vectors | None) -> list[str]:
    """Return a line for each requested number outside of the range that the zoo's checkpoints have.

    `table` is that of `requested`, which refuses unknown vectors and other lengths.
    """
    lines = []
    for name, numbers in (vectors or {}).items():
        columns = zip(*table.get(name, ()), strict=True)
        for number, column in zip(numbers, columns, strict=False):
            least, most = float(min(column)), float(max(column))
            if not least <= number <= most:
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
