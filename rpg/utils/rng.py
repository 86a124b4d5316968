"""Derive randomness from (experiment seed, stage, index), independent of earlier steps."""

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed from its parts, the same on every machine: `derive(seed, "train", step)`."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> "Generator":
    """Return a CPU generator seeded with `derive(*parts)`.

    Code for a GPU draws its numbers on the CPU and copies them, so that both devices use the same numbers.
    """
    import torch

    return torch.Generator().manual_seed(derive(*parts))


def fix_arithmetic(threads: int) -> None:
    """Make this process compute the same bits in every run: fixed threads and deterministic algorithms."""
    # Some stages need no torch, and its import takes a second.
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # On a GPU a few operations have no deterministic form. They warn there, because an error would end the run.
    # (torch.use_deterministic_algorithms has the same effect, but it imports the compiler, which takes seconds.)
    torch.set_deterministic_debug_mode("warn" if torch.cuda.device_count() else "error")
    # No code here reads memory before writing it, so filling memory first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # By default a GPU rounds float32 convolutions to 10 bits. Code that allows rounding uses autocast explicitly.
    torch.backends.cudnn.allow_tf32 = False
