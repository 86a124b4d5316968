"""A checkpoint as tokens and back, and whether the network is the same afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from rpg.init.survey import Survey
from rpg.tasks.adapters import loaded
from rpg.tasks.stack import StateDict
from rpg.tokenizer.canonical import canonical
from rpg.tokenizer.copied import Copied
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize, tokenize


@dataclass(frozen=True)
class RoundTrip:
    """A checkpoint before and after its way through tokens.

    `difference` is the largest one of a tensor, as a share of the tensor's largest weight.
    """

    before: StateDict
    after: StateDict
    difference: float


def round_trip(found: Survey, width: int, rotated: bool, copied: Copied) -> RoundTrip:
    """Turn the last checkpoint that was read into tokens of `width` weights and back."""
    last: StateDict = {}

    def state_dicts() -> Iterator[StateDict]:
        nonlocal last
        before = None
        for state_dict in found.state_dicts():
            last = before = canonical(state_dict, before) if rotated else state_dict
            yield last

    layout = Layout.of(next(state_dicts()), width, rotated, copied)
    # Reading takes most of the time, so the pass for the statistics also finds the last checkpoint.
    stats = Stats.of(layout, state_dicts())
    skipped = {tensor.name: last[tensor.name] for tensor in layout.skipped}
    after = detokenize(tokenize(last, layout, stats), layout, stats, skipped)
    differences = [0.0]
    for tensor in layout.tokenized:
        one, other = last[tensor.name].double(), after[tensor.name].double()
        largest = float(one.abs().max()) or 1.0
        differences.append(float((one - other).abs().max()) / largest)
    return RoundTrip(last, after, max(differences))


def outputs(found: Survey, state_dict: StateDict, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the network's output tensors for `inputs`."""
    with torch.no_grad():
        made = loaded(found.task.build(), state_dict)(inputs)
    return [tensor for tensor in torch.utils._pytree.tree_leaves(made) if isinstance(tensor, torch.Tensor)]


def same_function(found: Survey, trip: RoundTrip) -> Iterator[str]:
    """Yield a line about the network's score or outputs before and after the way through the tokens."""
    task = found.task
    if not task.params.build:
        yield "round trip: give --build to compare the networks' outputs"
    elif task.params.score:
        kind = task.params.metric_kind
        before, after = (task.score(state_dict, "validation") for state_dict in (trip.before, trip.after))
        yield f"round trip: {task.metric} {kind.with_unit(before)} before, {kind.with_unit(after)} after"
    else:
        yield _compared(found, trip)


def _compared(found: Survey, trip: RoundTrip) -> str:
    for inputs in _inputs(found.task.network):
        try:
            before, after = (outputs(found, state_dict, inputs) for state_dict in (trip.before, trip.after))
        except Exception:
            continue
        floats = [(one.double(), other.double()) for one, other in zip(before, after, strict=True)]
        largest = max((float(one.abs().max()) for one, _ in floats), default=0.0) or 1.0
        difference = max((float((one - other).abs().max()) for one, other in floats), default=0.0)
        share = difference / largest
        return f"round trip: outputs for inputs {list(inputs.shape)} change by at most {share:.1e} of the largest"
    return "round trip: outputs not compared, because no guess of the inputs fits; give --score"


def _inputs(network: nn.Module) -> Iterator[torch.Tensor]:
    """Yield guesses of inputs that fit the first module with weights."""
    draw = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            yield torch.randint(module.num_embeddings, (2, 8), generator=draw)
        elif isinstance(module, nn.modules.conv._ConvNd):
            for side in (32, 224, 64, 28, 96, 16):
                sides = [side] * len(module.kernel_size)
                yield torch.randn(2, module.in_channels, *sides, generator=draw)
        elif isinstance(module, nn.Linear):
            yield torch.randn(2, module.in_features, generator=draw)
            yield torch.randn(2, 8, module.in_features, generator=draw)
        else:
            continue
        return
