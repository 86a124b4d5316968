"""Activation checkpointing (Chen et al. 2016): the backward pass computes activations again instead of keeping them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpg.model.batchnorm import BatchNorm


def run(module: nn.Module, *inputs: Tensor, again: bool) -> Tensor:
    """Return `module(*inputs)`; if `again`, drop the activations and compute them again in the backward pass.

    Values and gradients stay the same.
    """
    if not again:
        return module(*inputs)
    # No module here draws random numbers, so there is no random state to preserve.
    return checkpoint(
        module,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _uncounted(module)),
    )


@contextmanager
def _uncounted(module: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics unchanged: the first pass has already counted this batch."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    for norm in norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm in norms:
            norm.counts = True
