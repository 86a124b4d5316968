"""Convert the conditions of a zoo's checkpoints, and a caller's requests, to the numbers that the model takes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rpg.config.model import Condition
from rpg.model.conditions import condition_name
from rpg.tokenizer.store import TokenStore
from rpg.utils import task_codes
from rpg.utils.errors import UserError
from rpg.zoo.manifest import Checkpoint, unknown_vector

Values = dict[str, Tensor]
# Name of a condition of the kind `vector` → its numbers.
Vectors = Mapping[str, Sequence[float]]
# The permutation states of a network, in equal shares. A single state is one training run of the zoo.
States = tuple[int, ...]


def checkpoint_values(conditions: Sequence[Condition], store: TokenStore) -> Values:
    """Return name → values [N, C] of all checkpoints in `store`; UserError if a checkpoint lacks a vector's field."""

    def values(condition: Condition, checkpoint: Checkpoint) -> list[float]:
        if condition.kind == "permutation_state":
            state = store.state(checkpoint)
            return [float(other == state) for other in range(len(store.seeds))]
        if condition.kind == "unconditional":
            return [0.0]
        if condition.kind == "task_code":
            return task_codes.bits(checkpoint.code or "")
        numbers = checkpoint.numbers(condition.field)
        if numbers is None:
            # The condition is newer than the zoo, whose stages check it, too.
            raise unknown_vector(condition.field, checkpoint.number_keys(), checkpoint.file)
        return numbers

    return {
        condition_name(condition): torch.tensor([values(condition, checkpoint) for checkpoint in store.checkpoints])
        for condition in conditions
    }


def drop_states(conditions: Sequence[Condition], values: Values, draw: torch.Generator) -> Values:
    """Replace the permutation state of random networks by the mean of all states (state dropout)."""
    for condition in conditions:
        if condition.kind == "permutation_state" and condition.dropout:
            states_BS = values["permutation_state"]
            dropped_B = torch.rand(len(states_BS), generator=draw) < condition.dropout
            mean_BS = torch.full_like(states_BS, 1 / states_BS.shape[1])
            return {**values, "permutation_state": torch.where(dropped_B.unsqueeze(1), mean_BS, states_BS)}
    return values


def mix_states(values: Values, draw: torch.Generator) -> Values:
    """Mix each network's permutation state with another state; the other's share is drawn from 0 to 1."""
    states_BS = values["permutation_state"]
    step_B = torch.randint(1, states_BS.shape[1], (len(states_BS),), generator=draw)
    share_B1 = torch.rand(len(states_BS), 1, generator=draw).to(states_BS)
    others_BS = torch.stack([row.roll(step) for row, step in zip(states_BS, step_B.tolist(), strict=True)])
    return {**values, "permutation_state": (1 - share_B1) * states_BS + share_B1 * others_BS}


def condition_values(
    conditions: Sequence[Condition],
    store: TokenStore,
    requests: Sequence[tuple[States | None, str | None]],
    draws: Sequence[torch.Generator],
    vectors: Vectors | None = None,
) -> Values:
    """Return name → values [B, C] for B requested networks.

    A request holds permutation states, a task code, both, or None for either. `vectors` apply to all networks. A
    checkpoint drawn at random supplies the values that a request omits. Raises UserError for an unknown state or
    vector, and for a code if the model was not trained on codes.
    """
    names = [condition_name(condition) for condition in conditions]
    known = checkpoint_values(conditions, store)
    picks = [int(torch.randint(len(store), (), generator=draw)) for draw in draws]
    values = {name: tensor[picks] for name, tensor in known.items()}
    for row, (states, code) in enumerate(requests):
        if states is not None:
            if "permutation_state" not in names:
                raise UserError("the model has no permutation states to choose from; leave --state out")
            for state in states:
                if not 0 <= state < len(store.seeds):
                    raise UserError(f"state {state}: the zoo has states 0 to {len(store.seeds) - 1}, one per seed")
            if len(set(states)) < len(states):
                raise UserError(f"states {', '.join(map(str, states))}: one is given twice; give each state once")
            values["permutation_state"][row] = 0
            values["permutation_state"][row, list(states)] = 1 / len(states)
        if code is not None:
            if "task_code" not in names:
                raise UserError("the model was not trained on task codes; leave the code, classes or description out")
            values["task_code"][row] = torch.tensor(task_codes.bits(code))
    for name, numbers in (vectors or {}).items():
        fields = [condition.field for condition in conditions if condition.kind == "vector"]
        if name not in fields:
            raise UserError(f"--vector {name}: the model has no such vector; known: {', '.join(fields) or 'none'}")
        if len(numbers) != values[name].shape[1]:
            raise UserError(f"--vector {name}: must have {values[name].shape[1]} numbers, not {len(numbers)}")
        values[name][:] = torch.tensor(numbers)
    return values
