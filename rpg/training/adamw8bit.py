"""torchao's AdamW with the gradients' moments in 8 bits (Dettmers et al. 2021)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torchao import optim
from torchao.optim.subclass_8bit import OptimState8bit


class AdamW8bit(optim.AdamW8bit):
    """torchao's AdamW8bit, without the compiler on a CPU, and with one moment format on all shards."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        on_gpu = self.param_groups[0]["params"][0].is_cuda
        with torch.compiler.set_stance("default" if on_gpu else "force_eager"):
            return super().step(closure)

    def _new_buffer(self, p: Tensor, signed: bool) -> Tensor:
        # torchao decides in each process. For a tensor of uneven shards one could take 8 bits and another 32.
        if isinstance(p, DTensor) and len(p) % p.device_mesh.size():
            return torch.zeros_like(p)
        return super()._new_buffer(p, signed)


def eight_bits(tensors: Mapping[str, Tensor], name: str, signed: bool) -> Tensor:
    """Return the moments `name` of a saved state.

    The state holds plain numbers, or codes of one byte in units of their block's scale.
    """
    if name in tensors:
        return tensors[name]
    codes, scale = tensors[f"{name}.codes"], tensors[f"{name}.scale"]
    moments = OptimState8bit.zeros(codes.shape, signed, codes.numel() // scale.numel())
    moments.codes.copy_(codes)
    moments.scale.copy_(scale)
    return moments
