"""Which operations have the same bytes on every processor? `python -m benchmarks operations --emulate Haswell`.

Each setting of `SETTINGS` limits torch, oneDNN, MKL and OpenBLAS to instructions that every x86-64 processor with AVX2
has. The benchmark hashes the results of operations on this processor, and in qemu's emulation of others (Debian package
qemu-user). An operation is portable under a setting if all hashes are equal.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.common import ROOT, report
from rpg.config.loading import load_params
from rpg.model.backbones import TokenPositions
from rpg.model.diffusion import T
from rpg.model.rpg import RPG

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
SETTINGS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": AVX2,
    "avx2, MKL's AVX2": {**AVX2, "MKL_CBWR": "AVX2"},
    "avx2, MKL compatible": {**AVX2, "MKL_CBWR": "COMPATIBLE"},
}
# The width of the tokens and of the denoiser of the digits' experiments, and the tokens of eight networks.
ROWS, WIDTH = 576, 512


def measure_operations(processors: Sequence[str], rounds: int, out: Path) -> list[dict[str, Any]]:
    """Print and write, for each operation and setting, whether all processors agree; the last row has the times.

    The time is that of a matrix product on this processor, relative to the first setting.
    """
    found = {name: [_in_process(setting)] for name, setting in SETTINGS.items()}
    for processor in processors:
        for name, setting in SETTINGS.items():
            # qemu emulates no AVX-512, so `native` differs from it where this processor has AVX-512.
            found[name].append(_in_process(setting, processor))
    names = [name for name in found["native"][0] if name != "milliseconds"]
    rows: list[dict[str, Any]] = [
        {
            "operation": name,
            **{
                setting: "same" if len({digests[name] for digests in of_setting}) == 1 else "differs"
                for setting, of_setting in found.items()
            },
        }
        for name in names
    ]
    times = {
        name: [float(_in_process(setting)["milliseconds"]) for _ in range(rounds)] for name, setting in SETTINGS.items()
    }
    base = statistics.median(times["native"])
    rows.append(
        {"operation": "time of a product", **{name: statistics.median(of) / base for name, of in times.items()}}
    )
    return report(rows, out, processors=list(processors))


def _in_process(setting: dict[str, str], processor: str | None = None) -> dict[str, str]:
    """Return the digests of a process with a setting, on this processor or on an emulated one."""
    emulator = ["qemu-x86_64", "-cpu", processor] if processor else []
    # qemu runs the interpreter itself, so the environment's packages are named.
    environment = {
        **os.environ,
        **setting,
        "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")]),
    }
    command = [*emulator, os.path.realpath(sys.executable), "-m", "benchmarks.operations"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    digests: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return digests


def digests() -> dict[str, str]:
    """Return operation → digest of its result in this process, and the milliseconds of a matrix product."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    values, square = random(ROWS, WIDTH), random(WIDTH, WIDTH)
    images = random(16, 16, 8, 8).requires_grad_()
    kernel = random(32, 16, 3, 3).requires_grad_()
    functional.conv2d(images, kernel, padding=1).square().sum().backward()
    weight = torch.nn.Parameter(random(64, 64))
    optimizer = torch.optim.AdamW([weight], 1e-3, fused=True)
    weight.square().sum().backward()
    optimizer.step()
    assert images.grad is not None
    assert kernel.grad is not None
    results = {
        "random numbers": values,
        "matrix product": values @ square,
        "batched product": torch.bmm(random(32, 72, 64), random(32, 64, 72)),
        "exp": values.exp(),
        "log": values.abs().log(),
        "erf": values.erf(),
        "silu": functional.silu(values),
        "gelu": functional.gelu(values),
        "softmax": values.softmax(1),
        "sum": values.sum(),
        "layer norm": functional.layer_norm(values, (WIDTH,)),
        "convolution": functional.conv2d(images, kernel, padding=1),
        "convolution, backward": torch.cat([images.grad.flatten(), kernel.grad.flatten()]),
        "AdamW": weight,
        "singular values": torch.linalg.svdvals(values[:64, :64].double()),
        "QR": torch.linalg.qr(values[:64, :8].double())[0],
        "numpy's product": torch.from_numpy(values.numpy() @ square.numpy()),
        "numpy's exp": torch.from_numpy(np.exp(values.numpy())),
        "numpy's exp, float64": torch.from_numpy(np.exp(values.double().numpy())),
    }
    results["three steps of RPG's training"] = torch.cat([weight.flatten() for weight in trained().parameters()])
    found = {
        name: hashlib.sha256(result.detach().contiguous().numpy().tobytes()).hexdigest()
        for name, result in results.items()
    }
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        _ = values @ square
        taken.append(time.perf_counter() - started)
    return {**found, "milliseconds": str(1e3 * statistics.median(taken))}


def trained(steps: int = 3) -> torch.nn.Module:
    """Return an RPG of the size of digits-vit after some steps of training on random tokens."""
    experiment, length, states = load_params(ROOT / "params.yaml").experiment("digits-vit"), 72, 8
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    known = TokenPositions(torch.arange(length).repeat(2, 1).T, torch.zeros(length, dtype=torch.bool))
    model = RPG(experiment.model, known, width=WIDTH, sizes={"permutation_state": states}, target="x0")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for _ in range(steps):
        values = {"permutation_state": torch.eye(states)}
        picked = torch.randint(states * length, (16, 8), generator=draw)
        times = torch.randint(T, (16, 1), generator=draw)
        tokens, noise = torch.randn(2, 16, 8, WIDTH, generator=draw)
        total, count = model(values, tokens, picked, times, noise)
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


if __name__ == "__main__":
    print(json.dumps(digests()))
