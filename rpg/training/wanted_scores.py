"""The loss of networks that shall have a wanted score, neither more nor less: `tune.loss: scores`.

A request names a score on the validation split, but a training must not read that split's images. The zoo tells how the
two splits agree: `TrainingScores` fits the validation scores of the zoo's checkpoints as an increasing function of
their scores on the training images, and inverts this function.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from rpg.blocks import PARAMS_FILE
from rpg.config.model import Condition
from rpg.model.conditions import condition_name
from rpg.tasks.base import DifferentiableTask
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import Values
from rpg.utils.errors import UserError


def inverse_increasing(inputs: Sequence[float], outputs: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return (y, x), the points of the inverse of the increasing function that fits `outputs` of `inputs` best.

    The fit is isotonic regression, the increasing function of least squares. Between the points, interpolate.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression().fit_transform(inputs, outputs)
    levels = np.unique(fitted)
    # The mean input of a level; the ends of the range stay those of the zoo.
    return levels, np.array([np.mean(np.asarray(inputs)[fitted == level]) for level in levels])


class TrainingScores:
    """The score on training images that networks need for a wanted score on the validation split."""

    def __init__(self, task: DifferentiableTask, conditions: Sequence[Condition], store: TokenStore) -> None:
        """Score the checkpoints of `store` on training images; UserError without a condition for the score."""
        wanted = f"validation_{task.metric}"
        vectors = [one for one in conditions if one.kind == "vector" and one.field == wanted]
        if not vectors:
            raise UserError(f"{PARAMS_FILE}: tune.loss: scores needs a condition of the kind vector, field {wanted}")
        self.name = condition_name(vectors[0])
        outputs = [(checkpoint.numbers(wanted) or [0.0])[0] for checkpoint in store.checkpoints]
        inputs = []
        for index, checkpoint in enumerate(store.checkpoints):
            states = torch.tensor([store.state(checkpoint)])
            weights = {name: of[0] for name, of in store.detokenize(store[index].unsqueeze(0), states).items()}
            inputs.append(task.score(weights, "train", checkpoint.code))
        self.wanted, self.training = inverse_increasing(inputs, outputs)

    def __call__(self, values: Values) -> Tensor:
        """Return [B] the scores on training images for the scores that the conditions `values` want."""
        wanted_B = values[self.name][:, 0]
        training_B = np.interp(wanted_B.double().cpu().numpy(), self.wanted, self.training)
        return torch.from_numpy(training_B).to(wanted_B)


class AskedStates:
    """Draws requests for scores that a permutation state's own checkpoints do not have.

    `own_seeds` are the seeds whose states are asked for numbers of their own checkpoints only. Raises UserError if they
    are all seeds.
    """

    def __init__(self, store: TokenStore, own_seeds: Collection[int]) -> None:
        own = {store.seeds.index(seed) for seed in own_seeds}
        self.states = torch.tensor([state for state in range(len(store.seeds)) if state not in own])
        if not len(self.states):
            raise UserError(f"{PARAMS_FILE}: tune.own_vectors: leaves no state to exchange; remove a seed")
        of_state: list[list[int]] = [[] for _ in store.seeds]
        for index, checkpoint in enumerate(store.checkpoints):
            of_state[store.state(checkpoint)].append(index)
        self.first = [places[0] for places in of_state]

    def exchange(
        self,
        conditions: Sequence[Condition],
        picks: Sequence[int],
        values: Values,
        all_values: Values,
        share: float,
        draw: torch.Generator,
    ) -> tuple[list[int], Values]:
        """Give a share of the networks a random state, and the vectors of a random checkpoint.

        All asked states are as frequent, however few checkpoints they have. `values` are those of the checkpoints
        `picks`, and `all_values` [N, C] those of all. Returns checkpoints of the new states, and the new values.
        """
        count = len(picks)
        changed_B = torch.rand(count, generator=draw) < share
        states_B = self.states[torch.randint(len(self.states), (count,), generator=draw)]
        others_B = torch.randint(len(next(iter(all_values.values()))), (count,), generator=draw)
        new = torch.tensor([self.first[state] for state in states_B.tolist()])
        sources = {condition_name(one): others_B for one in conditions if one.kind == "vector"}
        sources["permutation_state"] = new
        exchanged = dict(values)
        for name, source_B in sources.items():
            own_BC = values[name]
            changed_B1 = changed_B.unsqueeze(1).to(own_BC.device)
            exchanged[name] = torch.where(changed_B1, all_values[name][source_B].to(own_BC), own_BC)
        return torch.where(changed_B, new, torch.tensor(picks)).tolist(), exchanged

    def mix(self, values: Values, count: int, draw: torch.Generator) -> Values:
        """Mix the states of the first `count` networks with another asked state, in a share from 0 to 1."""
        shares_BS = values["permutation_state"]
        others = self.states[torch.randint(len(self.states), (count,), generator=draw)]
        share_B1 = torch.zeros(len(shares_BS), 1)
        share_B1[:count] = torch.rand(count, 1, generator=draw)
        share_B1 = share_B1.to(shares_BS)
        others_BS = torch.zeros_like(shares_BS)
        others_BS[torch.arange(count), others] = 1.0
        return {**values, "permutation_state": (1 - share_B1) * shares_BS + share_B1 * others_BS}
