"""The conditions `images` and `text`: a set of examples, embedded by a permutation-invariant set encoder.

The examples of `images` are labeled, with a group for each answer; those of `text` are questions, in one group. B
networks, S groups of a set, K examples of each at most, F features of an example.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.utils.statistics import divisor

if TYPE_CHECKING:
    from rpg.config.model import ImagesCondition, TextCondition

# The groups of a support set of images: those that the network answers with no and with yes.
SIDES = 2
# S, the groups of each kind of set.
GROUPS = {"images": SIDES, "text": 1}
# The encoder takes the largest and the second largest number. The second tells whether a kind of image is there twice.
LARGEST = 2


class SetEncoder(nn.Module):
    """Embed a set of examples (deep sets, Zaheer et al. 2017).

    An MLP changes the features of each example. The encoder takes the mean and the two largest of its outputs and of
    the features over the examples of a group, and a second MLP embeds these numbers of all groups. So neither the
    order nor the number of the examples matters. Features are standardized by those of the training examples, which a
    tuning sets; the state dict holds them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, params: "ImagesCondition | TextCondition", values: int, length: int, width: int, normalized: bool = False
    ) -> None:
        super().__init__()
        self.width, self.normalized = width, normalized
        outputs = width * (length if params.reach == "each" else 1)
        pooled = GROUPS[params.kind] * (1 + LARGEST) * (params.hidden + params.features)
        self.of_image = nn.Sequential(
            nn.Linear(params.features, params.hidden), nn.SiLU(), nn.Linear(params.hidden, params.hidden)
        )
        self.of_set = nn.Sequential(
            nn.Linear(pooled, params.hidden),
            nn.SiLU(),
            nn.Linear(params.hidden, params.hidden),
            nn.SiLU(),
            nn.Linear(params.hidden, outputs),
        )
        self.register_buffer("mean", torch.zeros(params.features))
        self.register_buffer("std", torch.ones(params.features))

    def standardize(self, features_nF: Tensor) -> None:
        """Take mean and deviation from the features [n, F] of the training examples."""
        std_F, mean_F = torch.std_mean(features_nF.double(), dim=0, correction=0)
        self.mean.copy_(mean_F)
        self.std.copy_(divisor(std_F, mean_F))

    def forward(self, values_BSKF: Tensor) -> Tensor:
        """Return the condition vectors [B, 1, M], or [B, L, M] with one per token.

        `values_BSKF` [B, S, K, F + 1] are made by `support_values`.
        """
        present = values_BSKF[..., -1:] > 0
        features = (values_BSKF[..., :-1].to(self.mean) - self.mean) / self.std
        numbers = torch.cat([features, self.of_image(features)], dim=-1)
        counts = present.sum(2).clamp(min=1)
        means = (numbers * present).sum(2) / counts
        # With a single example there is no second number.
        room = functional.pad(numbers.masked_fill(~present, -torch.inf), (0, 0, 0, LARGEST - 1), value=-torch.inf)
        largest = room.topk(LARGEST, dim=2).values
        largest = largest.masked_fill(largest.isinf(), 0.0).flatten(2)
        embedded = self.of_set(torch.cat([means, largest], dim=-1).flatten(1)).unflatten(1, (-1, self.width))
        return functional.layer_norm(embedded, embedded.shape[-1:]) if self.normalized else embedded


def support_values(supports: list[list[Tensor]]) -> Tensor:
    """Return values [B, S, K, F + 1] for the features [k, F] of the examples of each group, in each of B sets.

    The last number of an example is 1; absent examples are zeros.
    """
    features = supports[0][0].shape[1]
    most = max(len(of_class) for support in supports for of_class in support)
    values = torch.zeros(len(supports), len(supports[0]), most, features + 1)
    for row, support in enumerate(supports):
        for side, of_class in enumerate(support):
            values[row, side, : len(of_class), :features] = of_class
            values[row, side, : len(of_class), features] = 1.0
    return values
