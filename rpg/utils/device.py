"""Choose the device that computes tensors."""

import fcntl
import os
import platform
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch

# From this token width on, memory traffic dominates a GPU call, so compilation pays. Digits tokens have at most 512.
COMPILED_WIDTH = 4096


@cache
def device() -> torch.device:
    """Return the GPU of this process, or the CPU if there is no GPU.

    With several GPUs, this function makes one of them visible to the process, so that other libraries use the same GPU.
    """
    # device_count does not start CUDA, which reads CUDA_VISIBLE_DEVICES at its start.
    count = torch.cuda.device_count()
    if not count:
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:
        # torchrun assigns each process a LOCAL_RANK.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if count > 1:
        claim(1)
    return torch.device("cuda")


def claim(count: int) -> None:
    """Show this process and its children `count` GPUs that no other process of this user has claimed.

    If too few GPUs are free, the process shares claimed GPUs.
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
    """Claim a GPU until this process ends; return False if another process of this user holds the claim."""
    folder = Path(tempfile.gettempdir()) / f"rpg-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    handle = os.open(folder / gpu, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    # The open file keeps the lock. The kernel frees the lock when the process ends, even after kill -9.
    return True


@cache
def compiles(on: torch.device) -> bool:
    """Return whether torch.compile works for the device: a GPU, with Triton and a C compiler installed."""
    compilers = [os.environ.get("CC"), "cc", "gcc", "clang"]
    return on.type == "cuda" and find_spec("triton") is not None and any(which(name) for name in compilers if name)


def worth_compiling(on: torch.device, width: int) -> bool:
    """Return whether torch.compile pays for tokens of this width. Compilation takes as long as some hundred calls."""
    return compiles(on) and width >= COMPILED_WIDTH


def bfloat16(enabled: bool, on: torch.device) -> torch.autocast:
    """Return torch's autocast to bfloat16, active if `enabled` and if the device has bfloat16 units.

    Other devices would emulate bfloat16 slowly.
    """
    return torch.autocast(on.type, torch.bfloat16, enabled=enabled and has_bfloat16(on))


def has_bfloat16(on: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices faster than float32 matrices.

    A GPU does, and a CPU with bfloat16 units.
    """
    if on.type != "cpu":
        return True
    # The capabilities are those of the processor, even if ATEN_CPU_CAPABILITY limits torch to older instructions.
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False
    units = torch.cpu.get_capabilities()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def describe(on: torch.device) -> str:
    """Return the device's name and, for a CPU, the instructions that torch uses."""
    if on.type == "cuda":
        return torch.cuda.get_device_name(on)
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    units = ", bfloat16 units" if has_bfloat16(on) else ""
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}{units})"
