"""Convert the conditions of a zoo's checkpoints, and a caller's requests, to the numbers that the model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rpg.config.model import Condition
from rpg.model.conditions import condition_name
from rpg.tokenizer.store import TokenStore
from rpg.utils import task_codes
from rpg.utils.condition_requests import Row, States, Vectors, outside, requested
from rpg.utils.errors import UserError
from rpg.zoo.manifest import Checkpoint, unknown_vector

Values = dict[str, Tensor]
NOT_PROMPTED = "the model takes no prompt; leave it out"
# Condition of a prompt → the fault of a request without one.
NO_PROMPT = {
    "images": "the model needs images of the task: add --images FOLDER with a folder of images for no, and one for yes",
    "text": "the model needs questions of the task: add --prompts FILE with a question on each line",
}


def checkpoint_values(conditions: Sequence[Condition], store: TokenStore) -> Values:
    """Return name → values [N, C] of all checkpoints in `store`; UserError if a checkpoint lacks a vector's field.

    A checkpoint has no prompt, so the conditions `images` and `text` have no entry.
    """

    def values(condition: Condition, checkpoint: Checkpoint) -> list[float]:
        if condition.kind == "permutation_state":
            state = store.state(checkpoint)
            return [float(other == state) for other in range(len(store.seeds))]
        if condition.kind == "unconditional":
            return [0.0]
        if condition.kind == "task_code":
            return task_codes.bits(checkpoint.code or "")
        assert condition.kind == "vector"
        numbers = checkpoint.numbers(condition.field)
        if numbers is None:
            # The condition is newer than the zoo, whose stages check it, too.
            raise unknown_vector(condition.field, checkpoint.number_keys(), checkpoint.file)
        return numbers

    return {
        condition_name(condition): torch.tensor([values(condition, checkpoint) for checkpoint in store.checkpoints])
        for condition in conditions
        if condition.kind not in NO_PROMPT
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


def drop_vectors(conditions: Sequence[Condition], values: Values, draw: torch.Generator) -> Values:
    """Make numbers of random networks unknown, NaN, by the `dropout` of each vector; one vector of each stays known."""
    vectors = [condition for condition in conditions if condition.kind == "vector"]
    if not any(condition.dropout for condition in vectors):
        return values
    dropped, count = dict(values), len(next(iter(values.values())))
    known_B = torch.randint(len(vectors), (count,), generator=draw)
    for place, condition in enumerate(vectors):
        dropped_B = (torch.rand(count, generator=draw) < (condition.dropout or 0.0)) & (known_B != place)
        numbers_BC = values[condition_name(condition)]
        unknown_B1 = dropped_B.unsqueeze(1).to(numbers_BC.device)
        dropped[condition_name(condition)] = numbers_BC.masked_fill(unknown_B1, torch.nan)
    return dropped


def mix_states(values: Values, draw: torch.Generator) -> Values:
    """Mix each network's permutation state with another state; the other's share is drawn from 0 to 1."""
    states_BS = values["permutation_state"]
    step_B = torch.randint(1, states_BS.shape[1], (len(states_BS),), generator=draw)
    share_B1 = torch.rand(len(states_BS), 1, generator=draw).to(states_BS)
    others_BS = torch.stack([row.roll(step) for row, step in zip(states_BS, step_B.tolist(), strict=True)])
    return {**values, "permutation_state": (1 - share_B1) * states_BS + share_B1 * others_BS}


@dataclass(frozen=True)
class ConditionTable:
    """The conditions of a model, and the values [N, C] of each for the zoo's N checkpoints."""

    conditions: Sequence[Condition]
    values: Values

    @classmethod
    def of(cls, conditions: Sequence[Condition], store: TokenStore) -> "ConditionTable":
        """Return the table of the checkpoints in `store`; UserError if one lacks a vector's field."""
        return cls(conditions, checkpoint_values(conditions, store))

    @property
    def sizes(self) -> dict[str, int]:
        """C, the number of values of each condition."""
        return {name: values_NC.shape[1] for name, values_NC in self.values.items()}

    def requested(
        self,
        requests: Sequence[tuple[States | None, str | None]],
        draws: Sequence[torch.Generator],
        vectors: Vectors | None = None,
        prompts: Tensor | None = None,
    ) -> Values:
        """Return name → values [B, C] for B requested networks; `prompts` [B, S, K, F + 1] are those of a prompt.

        A request holds permutation states, a task code, both, or None for either. `vectors` apply to all networks. A
        checkpoint drawn at random, of a requested state, supplies the values that a request omits. Raises UserError for
        an unknown state or vector, for a code if the model was not trained on codes, and if a prompt is missing, or
        given to a model that takes none.
        """
        kind = next((condition.kind for condition in self.conditions if condition.kind in NO_PROMPT), None)
        if (kind is not None) != (prompts is not None):
            raise UserError(NO_PROMPT[kind] if kind else NOT_PROMPTED)
        rows = [self._requested(*request, draw, vectors) for request, draw in zip(requests, draws, strict=True)]
        values = {name: torch.tensor([row[name] for row in rows]) for name in self.values}
        return values if kind is None or prompts is None else {**values, kind: prompts}

    def outside(self, vectors: Vectors | None) -> list[str]:
        """Return a line for each requested number outside of the range that the zoo's checkpoints have."""
        return outside(self._rows, vectors)

    def _requested(
        self, states: States | None, code: str | None, draw: torch.Generator, vectors: Vectors | None
    ) -> Row:
        of_vectors = [condition for condition in self.conditions if condition.kind == "vector"]
        fields = [condition_name(condition) for condition in of_vectors]
        optional = [condition_name(condition) for condition in of_vectors if condition.dropout]

        def pick(count: int) -> int:
            return int(torch.randint(count, (), generator=draw))

        return requested(self._rows, pick, fields, states, code, vectors, optional)

    @cached_property
    def _rows(self) -> dict[str, list[list[float]]]:
        return {name: values_NC.tolist() for name, values_NC in self.values.items()}
