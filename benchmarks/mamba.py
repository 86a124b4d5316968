"""Compare a Mamba2 block and its scan with mamba-ssm's kernel on a GPU: `python -m benchmarks mamba`.

The block is as in a training: weights in float32, products in bfloat16 or float32. The scan alone gets the inputs that
the block passes to it.
"""

import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.common import in_turn, ratio, report
from rpg.model import mamba2
from rpg.model.mamba2 import Mamba2
from rpg.utils.device import bfloat16, device

# Shapes from the paper: name → (B, L, M, D), with the last block's widths M and D.
SHAPES = {"ViT-Tiny": (4, 808, 8192, 8192), "ViT-Base": (2, 5378, 12288, 16384)}


def compare_mamba(rounds: int, out: Path) -> list[dict[str, Any]]:
    """Print and write time, memory and difference of forward and backward passes, measured in turn."""
    if not torch.cuda.is_available() or mamba2._kernel() is None:
        sys.exit("python -m benchmarks mamba: error: needs a GPU and mamba-ssm; see docs/start/install.md")
    return report([row for shape in SHAPES for rounded in (True, False) for row in _of(shape, rounded, rounds)], out)


def _without(*names: str) -> AbstractContextManager[Any]:
    """Patch mamba2 to have no kernel, or neither kernel nor compiler."""
    return patch.multiple(mamba2, **{name: lambda *_: None for name in names}) if names else nullcontext()


WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "mamba-ssm's kernel": _without,
    "compiled": lambda: _without("_kernel"),
    "plain": lambda: _without("_kernel", "compiles"),
}


def _of(shape: str, rounded: bool, rounds: int) -> list[dict[str, Any]]:
    batch, length, before, after = SHAPES[shape]
    torch.manual_seed(0)
    on = device()
    block = Mamba2(after, input_width=before).to(on)
    u_BLM = torch.randn(batch, length, before, device=on, requires_grad=True)
    taken: list[tuple[Tensor, ...]] = []
    with bfloat16(rounded, on), patch.object(mamba2, "scan", lambda *inputs: taken.append(inputs) or inputs[0]):
        block(u_BLM)
    inputs = [tensor.detach().requires_grad_() for tensor in taken[0]]

    def gradient(what: str) -> Tensor:
        """Return the gradient of the mean squared output with respect to the first input."""
        with bfloat16(rounded, on):
            y = mamba2.scan(*inputs) if what == "scan" else block(u_BLM)
        return torch.autograd.grad(y.float().square().mean(), inputs[0] if what == "scan" else u_BLM)[0]

    rows = []
    for what in ("scan", "block"):
        gradients, gigabytes, functions = {}, {}, {}
        for name, way in WAYS.items():

            def passes(way: Callable[[], AbstractContextManager[Any]] = way, what: str = what) -> Tensor:
                with way():
                    return gradient(what)

            gradients[name] = passes()
            torch.cuda.reset_peak_memory_stats()
            passes()
            gigabytes[name] = torch.cuda.max_memory_allocated() / 1e9
            functions[name] = passes
        seconds = in_turn(functions, rounds)
        kernel = "mamba-ssm's kernel"
        rows += [
            {
                "shape": shape,
                "products": "bfloat16" if rounded else "float32",
                "what": what,
                "by": name,
                "ms": 1000 * statistics.median(taken_by),
                **ratio(taken_by, seconds[kernel]),
                "GB": gigabytes[name],
                "difference of the gradient": float(
                    (gradients[name] - gradients[kernel]).norm() / gradients[kernel].norm()
                ),
            }
            for name, taken_by in seconds.items()
        ]
    return rows
