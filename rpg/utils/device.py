"""Where tensors are computed."""

import fcntl
import os
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch

# Of tokens, from which a call takes a GPU so long that passes over memory count; the digits' are at most 512 wide.
COMPILED_WIDTH = 4096


@cache
def device() -> torch.device:
    """The GPU if there is one; of several, that of this process, which other libraries then take for the only one."""
    # Counted without starting CUDA, which reads the variable below when it starts.
    count = torch.cuda.device_count()
    if not count:
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:
        # torchrun has numbered its processes.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if count > 1:
        claim(1)
    return torch.device("cuda")


def claim(count: int) -> None:
    """Have this process, and those that it starts, see `count` GPUs that no other process of this user has claimed.

    Where there are not as many, others are shared.
    """
    total, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:total] if visible else [str(index) for index in range(total)]
    free: list[str] = []
    for name in names:
        if len(free) < count and _claim(name):
            free.append(name)
    taken = [name for name in names if name not in free]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([*free, *taken][:count])


def _claim(gpu: str) -> bool:
    """Whether no other process of this user has claimed the GPU; now this one has, until it ends."""
    folder = Path(tempfile.gettempdir()) / f"rpg-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / gpu, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    # The file is left open: the kernel frees the lock when the process ends, however it does.
    return True


@cache
def compiles(on: torch.device) -> bool:
    """Whether torch's compiler makes kernels for it: a GPU, where Triton is installed and finds a C compiler."""
    compilers = [os.environ.get("CC"), "cc", "gcc", "clang"]
    return on.type == "cuda" and find_spec("triton") is not None and any(which(name) for name in compilers if name)


def worth_compiling(on: torch.device, width: int) -> bool:
    """Whether torch's compiler, which takes as long as some hundred calls, is worth it for tokens of this width."""
    return compiles(on) and width >= COMPILED_WIDTH


def bfloat16(enabled: bool, on: torch.device) -> torch.autocast:
    """torch's autocast to bfloat16, if `enabled` and if the device has units for it; others would only emulate it."""
    return torch.autocast(on.type, torch.bfloat16, enabled=enabled and has_bfloat16(on))


def has_bfloat16(on: torch.device) -> bool:
    """Whether it multiplies matrices of bfloat16 faster than those of float32: a GPU, or a CPU with units for it."""
    if on.type != "cpu":
        return True
    units = torch.cpu.get_capabilities()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))
