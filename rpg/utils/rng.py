"""Randomness from (experiment seed, stage, index), never from what an earlier step left behind."""

import hashlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def derive(*parts: int | str) -> int:
    """A 63-bit seed from its parts, the same on every machine: `derive(seed, "train", step)`."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> "Generator":
    """A CPU generator seeded with `derive(*parts)`; numbers for a GPU are drawn here and copied, so that they agree."""
    import torch

    return torch.Generator().manual_seed(derive(*parts))


def fix_arithmetic(threads: int) -> None:
    """Make this process compute the same bits in every run: fixed threads and deterministic algorithms."""
    # Not above: a stage that only reads and writes lists needs no torch, whose import takes a second.
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # On a GPU a few operations have no deterministic form; there they warn, since refusing them would end the run.
    # (torch.use_deterministic_algorithms does the same and imports the compiler, which takes seconds.)
    torch.set_deterministic_debug_mode("warn" if torch.cuda.device_count() else "error")
    # Nothing here reads memory before it is written, so filling it first would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # Float32 is float32: on a GPU convolutions would else have products of 10 bits. What may be rounded says so.
    torch.backends.cudnn.allow_tf32 = False
