"""The plain scan of a Mamba2 block beside mamba-ssm's kernel, on a GPU: `python -m benchmarks mamba`."""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tabulate import tabulate
from torch import Tensor

from rpg.model import mamba2
from rpg.model.mamba2 import Mamba2

# Of the paper: name → (B, L, M, D), the last block's widths.
SHAPES = {"ViT-Tiny": (4, 808, 8192, 8192), "ViT-Base": (2, 5378, 12288, 16384)}


def compare_mamba(rounds: int, out: Path) -> None:
    """Print time, memory and difference of a block's forward and backward pass, in turn; write JSON."""
    if not torch.cuda.is_available() or mamba2._kernel() is None:
        sys.exit(
            "python -m benchmarks mamba: error: needs a GPU and mamba-ssm; see 'Install something else' in README.md"
        )
    rows = [row for shape in SHAPES for dtype in (torch.bfloat16, torch.float32) for row in _of(shape, dtype, rounds)]
    print(tabulate(rows, "keys", tablefmt="pipe", floatfmt=".4g"))
    out.write_text(json.dumps({"device": torch.cuda.get_device_name(), "rows": rows}, indent=2) + "\n")


def _of(shape: str, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    batch, length, before, after = SHAPES[shape]
    torch.manual_seed(0)
    block = Mamba2(after, input_width=before).to("cuda", dtype)
    u_BLM = torch.randn(batch, length, before, device="cuda", dtype=dtype, requires_grad=True)
    ways: dict[str, Callable[[], Tensor]] = {
        "kernel": lambda: _pass(block, u_BLM),
        "plain": lambda: _plain(block, u_BLM),
    }
    results = {name: way() for name, way in ways.items()}
    error = (results["plain"] - results["kernel"]).abs().max() / results["kernel"].abs().max()
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    gigabytes = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, way in ways.items():
            torch.cuda.reset_peak_memory_stats()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            way()
            end.record()
            torch.cuda.synchronize()
            milliseconds[name].append(start.elapsed_time(end))
            gigabytes[name] = torch.cuda.max_memory_allocated() / 1e9
    return [
        {
            "shape": shape,
            "numbers": str(dtype).removeprefix("torch."),
            "scan": name,
            "ms, median": statistics.median(milliseconds[name]),
            "ms, fastest": min(milliseconds[name]),
            "GB": gigabytes[name],
            "difference of the gradient": float(error),
        }
        for name in ways
    ]


def _pass(block: Mamba2, u_BLM: Tensor) -> Tensor:
    """The gradient of the input."""
    (gradient,) = torch.autograd.grad(block(u_BLM).float().square().mean(), u_BLM)
    return gradient


def _plain(block: Mamba2, u_BLM: Tensor) -> Tensor:
    with patch.object(mamba2, "_kernel", lambda: None):
        return _pass(block, u_BLM)
