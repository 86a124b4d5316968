"""The loss of networks that shall have a wanted score, neither more nor less: `tune.loss: scores`.

A request names a score on the validation split, but a training must not read that split's images. The zoo tells how the
two splits agree: `TrainingScores` fits the validation scores of the zoo's checkpoints as an increasing function of
their scores on the training images, and inverts this function.
"""

from collections.abc import Sequence

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
