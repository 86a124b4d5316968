"""The tokenizer of a zoo: layout, statistics and copied tensors turn tokens into state dicts."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize


@dataclass(eq=False)
class Tokenizer:
    """Turns tokens into state dicts; `skipped` maps tensors without tokens to [S, *shape], one for each of S states.

    The copied tensors of a state are those of the last checkpoint of its training run.
    """

    layout: Layout
    stats: Stats
    skipped: Mapping[str, Tensor]

    @classmethod
    def of_tensors(cls, layout: Layout, tensors: Mapping[str, Tensor], states: int) -> "Tokenizer":
        """Return the tokenizer of a zoo of `states` states from `tensors`, as `tensors()` returns them.

        Raises ValueError if a tensor is missing or has another shape.
        """
        try:
            stats = Stats(**{name: tensors[f"stats.{name}"] for name in Stats.__dataclass_fields__})
            skipped = {tensor.name: tensors[f"skipped.{tensor.name}"] for tensor in layout.skipped}
        except KeyError as error:
            raise ValueError(f"no tensor {error}") from error
        shapes = {tensor.name: (states, *tensor.shape) for tensor in layout.skipped}
        if {values.shape for values in vars(stats).values()} != {(len(layout.tokenized),)} or any(
            values.shape != shapes[name] for name, values in skipped.items()
        ):
            raise ValueError("the tensors do not fit the layout")
        return cls(layout, stats, skipped)

    def tensors(self) -> dict[str, Tensor]:
        """Return the statistics, stats.<name> [K], and the copied tensors, skipped.<name> [S, *shape]."""
        return {f"stats.{name}": tensor for name, tensor in vars(self.stats).items()} | {
            f"skipped.{name}": tensor for name, tensor in self.skipped.items()
        }

    def detokenize(self, tokens_BLD: Tensor, states_B: Tensor) -> dict[str, Tensor]:
        """Return tensors [B, *shape] from `tokens_BLD`, with the copied tensors of the states `states_B`."""
        skipped = {name: values[states_B.to(values.device)] for name, values in self.skipped.items()}
        return detokenize(tokens_BLD, self.layout, self.stats, skipped)
