import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rpg.utils import device as device_module
from rpg.utils.device import (
    bfloat16,
    claim,
    compiles,
    device,
    has_bfloat16,
    worth_compiling,
)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the machine had two GPUs; what is claimed there stays claimed for the test."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device_module.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device.cache_clear()
    yield
    device.cache_clear()


def claimed(monkeypatch: pytest.MonkeyPatch, visible: str = "") -> str:
    """The GPU that another process would take, which sees those in `visible`, or all."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    device.cache_clear()
    assert device() == device() == torch.device("cuda")
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.usefixtures("two_gpus")
def test_processes_take_a_gpu_each_and_share_the_first_when_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [claimed(monkeypatch) for _ in range(3)] == ["0", "1", "0"]


@pytest.mark.usefixtures("two_gpus")
def test_only_visible_gpus_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [claimed(monkeypatch, "5,1") for _ in range(2)] == ["5", "1"]
    assert claimed(monkeypatch) == "0"
    assert claimed(monkeypatch, "1,7") == "7"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_free_again_when_its_process_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from rpg.utils import device; device.tempfile.tempdir = sys.argv[1]; assert device._claim('0')"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    assert claimed(monkeypatch) == "0"


@pytest.mark.usefixtures("two_gpus")
def test_several_gpus_are_claimed_for_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert claimed(monkeypatch) == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    claim(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # One is left; the other is shared.
    claim(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,0"


@pytest.mark.usefixtures("two_gpus")
def test_torchrun_says_which_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device() == torch.device("cuda", 1)
    assert chosen == [1]


def test_compiler_is_for_gpus_and_wide_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    found = {"triton": object(), "gcc": "/usr/bin/gcc"}
    monkeypatch.setattr(device_module, "find_spec", found.get)
    monkeypatch.setattr(device_module, "which", found.get)
    monkeypatch.delenv("CC", raising=False)
    compiles.cache_clear()
    assert worth_compiling(gpu, 8192)
    assert not worth_compiling(gpu, 512)
    assert not worth_compiling(cpu, 8192)
    for missing in list(found):
        kept = found.pop(missing)
        compiles.cache_clear()
        assert not compiles(gpu)
        found[missing] = kept
    compiles.cache_clear()


def test_products_are_rounded_inside_and_as_before_outside() -> None:
    """To 8 bits where the processor has units for it, exactly elsewhere."""
    draw, on = torch.Generator().manual_seed(0), torch.device("cpu")
    a, b = torch.randn(64, 256, generator=draw), torch.randn(256, 48, generator=draw)
    exact = a @ b
    with bfloat16(True, on):
        rounded = a @ b
    with bfloat16(False, on):
        assert torch.equal(a @ b, exact)
    assert torch.equal(a @ b, exact)
    assert torch.equal(rounded, a.bfloat16() @ b.bfloat16() if has_bfloat16(on) else exact)


def test_bfloat16_is_for_gpus_and_cpus_with_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a processor with AVX2 alone, too.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert has_bfloat16(torch.device("cuda"))
    for units, expected in (
        ({}, False),
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        assert has_bfloat16(torch.device("cpu")) is expected


def test_avx2_has_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for capability, expected in (("DEFAULT", False), ("AVX2", False), ("AVX512", True)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert has_bfloat16(torch.device("cpu")) is expected
