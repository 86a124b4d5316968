"""Activation checkpointing (Chen et al. 2016): what a module's backward pass needs is computed again, not kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpg.model.batchnorm import BatchNorm


def run(module: nn.Module, *inputs: Tensor, again: bool) -> Tensor:
    """`module(*inputs)`; if `again`, its activations are dropped and computed again for the backward pass.

    The same values and gradients.
    """
    if not again:
        return module(*inputs)
    # No module here draws random numbers.
    return checkpoint(
        module,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _uncounted(module)),
    )


@contextmanager
def _uncounted(module: nn.Module) -> Iterator[None]:
    """What passes through `module` has been counted in BatchNorm's running statistics before."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    for norm in norms:
        norm.counts = False
    try:
        yield
    finally:
        for norm in norms:
            norm.counts = True
