"""The chunked scan against the recurrence taken step by step, in values and gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rpg.model import mamba2
from rpg.model.mamba2 import CHUNK, Mamba2, scan


def step_by_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """h_l = exp(Δ A) h + Δ x Bᵀ, y = h C + D x, one position after another."""
    h = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[-1])
    ys = []
    for step in range(x.shape[1]):
        decay = (dt[:, step] * A).exp()[..., None, None]
        h = decay * h + (dt[:, step, :, None] * x[:, step])[..., None] * B[:, step, None, None, :]
        ys.append((h * C[:, step, None, None, :]).sum(-1) + D[:, None] * x[:, step])
    return torch.stack(ys, dim=1)


def inputs(length: int, dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(length)
    shapes = [(2, length, 3, 4), (2, length, 3), (3,), (2, length, 5), (2, length, 5), (3,)]
    x, dt, A, B, C, D = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    values = [x, functional.softplus(dt - 1), -A.exp(), B, C, D]
    return [value.to(dtype).requires_grad_() for value in values]


@pytest.mark.parametrize("length", [1, 7, CHUNK, 2 * CHUNK, 2 * CHUNK + 1, 4 * CHUNK - 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_scan_equals_recurrence(length: int, dtype: torch.dtype, tolerance: float) -> None:
    fast, slow = inputs(length, dtype), inputs(length, dtype)
    y_fast, y_slow = scan(*fast), step_by_step(*slow)
    assert y_fast.dtype == dtype
    scale = y_slow.abs().max()
    assert (y_fast - y_slow).abs().max() <= tolerance * scale
    weight = torch.randn(y_slow.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    (y_fast * weight).sum().backward()
    (y_slow * weight).sum().backward()
    for a, b in zip(fast, slow, strict=True):
        assert (a.grad - b.grad).abs().max() <= tolerance * b.grad.abs().max()


@pytest.mark.parametrize("length", [2 * CHUNK, 3 * CHUNK])
def test_scan_and_its_gradients_are_finite_with_strong_decay(length: int) -> None:
    values = inputs(length, torch.float32)
    values[2] = (values[2].detach() * 1000).requires_grad_()
    y = scan(*values)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(value.grad).all() for value in values)


def test_state_dict_is_that_of_mamba_ssm() -> None:
    """Names, order and shapes as in mamba_ssm.Mamba2(d_model=128, d_state=64, headdim=32, expand=2)."""
    shapes = {
        name: tuple(tensor.shape) for name, tensor in Mamba2(128, state_width=64, head_width=32).state_dict().items()
    }
    assert list(shapes.items()) == [
        ("dt_bias", (8,)),
        ("A_log", (8,)),
        ("D", (8,)),
        ("in_proj.weight", (2 * 256 + 2 * 64 + 8, 128)),
        ("conv1d.weight", (256 + 2 * 64, 1, 4)),
        ("conv1d.bias", (256 + 2 * 64,)),
        ("norm.weight", (256,)),
        ("out_proj.weight", (128, 256)),
    ]


def test_block_equals_published_equations() -> None:
    """The whole block, position by position, in float64, from its state dict alone."""
    torch.manual_seed(0)
    block = Mamba2(16, state_width=6, head_width=8, input_width=10).double()
    w = block.state_dict()
    u = torch.randn(2, 9, 10, dtype=torch.float64)
    z, xBC, dt = (u @ w["in_proj.weight"].T).split([32, 32 + 12, 4], dim=-1)
    history = functional.pad(xBC, (0, 0, 3, 0))
    windows = torch.stack([history[:, i : i + 9] for i in range(4)], dim=-1)
    convolved = functional.silu((windows * w["conv1d.weight"][:, 0]).sum(-1) + w["conv1d.bias"])
    x, B, C = convolved.split([32, 6, 6], dim=-1)
    y = step_by_step(x.unflatten(-1, (4, 8)), (dt + w["dt_bias"]).exp().log1p(), -w["A_log"].exp(), B, C, w["D"])
    y = y.flatten(-2) * z * torch.sigmoid(z)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["norm.weight"]
    torch.testing.assert_close(block(u), y @ w["out_proj.weight"].T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 9])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.bfloat16, 3e-2)])
def test_convolution_and_its_gradients_are_torch_s(length: int, dtype: torch.dtype, tolerance: float) -> None:
    """Also of sequences that are shorter than the kernel, and of rounded ones with weights that are not."""
    torch.manual_seed(0)
    block, x = Mamba2(16, state_width=6, head_width=8).double(), torch.randn(2, length, 44, dtype=torch.float64)
    inputs, grad = [x.requires_grad_(), *block.conv1d.parameters()], torch.randn_like(x)
    expected = functional.silu(block.conv1d(functional.pad(x.transpose(1, 2), (3, 0)))).transpose(1, 2)
    found = block.convolve(x.to(dtype))
    assert found.dtype == dtype
    gradients = (torch.autograd.grad(y, inputs, grad.to(y.dtype)) for y in (found, expected))
    for one, other in zip((found.double(), *next(gradients)), (expected, *next(gradients)), strict=True):
        assert one.dtype == torch.float64
        assert (one - other).norm() <= tolerance * other.norm()


def test_initial_steps_and_decays_lie_in_the_published_ranges() -> None:
    torch.manual_seed(0)
    block = Mamba2(1024)
    dt = functional.softplus(block.dt_bias)
    assert 0.001 * 0.999 <= dt.min() <= 0.002
    assert 0.05 <= dt.max() <= 0.1 * 1.001
    assert block.A_log.min() >= 0
    assert block.A_log.max() <= math.log(16)


def test_later_tokens_do_not_reach_earlier_ones() -> None:
    torch.manual_seed(0)
    block, u = Mamba2(16, head_width=8), torch.randn(1, 3 * CHUNK, 16)
    changed, at = u.clone(), 2 * CHUNK - 3
    changed[:, at] += 1
    difference = (block(u) - block(changed)).abs().amax((0, 2))
    assert (difference[:at] == 0).all()
    # Over the border of two chunks; far from it all is forgotten.
    assert (difference[at : at + 16] > 0).all()


def test_width_that_does_not_fit_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of head_width"):
        Mamba2(20, head_width=64)


def test_state_dict_of_mamba_ssm_moves_here_and_back() -> None:
    """Every tensor of mamba_ssm.Mamba2(d_model=32, d_state=8, headdim=16) has its place, and comes back as it was."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
        "in_proj.weight": (2 * 64 + 2 * 8 + 4, 32),
        "conv1d.weight": (64 + 2 * 8, 1, 4),
        "conv1d.bias": (64 + 2 * 8,),
        "norm.weight": (64,),
        "out_proj.weight": (32, 64),
    }
    theirs = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    block = Mamba2(32, state_width=8, head_width=16)
    block.load_state_dict(theirs, strict=True)
    ours = block.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mamba_ssm's kernel needs CUDA")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "of_kernels"), [(torch.bfloat16, 2e-2, 2e-2), (torch.float32, 1e-4, 5e-3)]
)
def test_kernel_equals_plain_version(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, of_kernels: float
) -> None:
    """Outputs and gradients of a whole block, on the GPU with mamba_ssm's kernel, compiled, and plain.

    The kernel's products are of TF32, which has 10 bits, where they are not of bfloat16; the compiler's are exact.
    """
    assert mamba2._kernel() is not None, "install requirements/cuda.txt"
    torch.manual_seed(0)
    block = Mamba2(128).cuda().to(dtype)
    u = torch.randn(2, 3 * CHUNK + 5, 128, device="cuda", dtype=dtype)
    found = []
    for kernel, compiled in ((mamba2._kernel(), False), (None, True), (None, False)):
        monkeypatch.setattr(mamba2, "_kernel", lambda kernel=kernel: kernel)
        monkeypatch.setattr(mamba2, "compiles", lambda on, compiled=compiled: compiled)
        block.zero_grad()
        x = u.clone().requires_grad_()
        y = block(x)
        y.float().square().sum().backward()
        found.append([y, x.grad, *(parameter.grad for parameter in block.parameters())])
    for of_kernel, of_compiler, plain in zip(*found, strict=True):
        assert (of_kernel - plain).float().norm() <= of_kernels * plain.float().norm()
        assert (of_compiler - plain).float().norm() <= tolerance * plain.float().norm()


def test_compiler_loses_no_gradient() -> None:
    """Traced as for a GPU, and then computed as it is; several chunks."""
    draw = torch.Generator().manual_seed(0)
    x, dt, B, C = (
        torch.rand(2, 3 * CHUNK + 5, *shape, generator=draw).requires_grad_() for shape in ((4, 8), (4,), (6,), (6,))
    )
    A, D = -torch.rand(4, generator=draw).requires_grad_(), torch.ones(4, requires_grad=True)
    found = []
    for way in (mamba2.plain_scan, torch.compile(mamba2.plain_scan, backend="aot_eager")):
        y = way(x, dt, A, B, C, D)
        found.append([y, *torch.autograd.grad(y.square().sum(), (x, dt, A, B, C, D))])
    for expected, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, expected)


def test_what_is_computed_again_in_parts_is_the_same(monkeypatch) -> None:
    """Output, and gradients of the input and of every weight; heads and tokens do not divide evenly."""
    monkeypatch.setattr(mamba2, "HEADS_TOGETHER", 3)
    monkeypatch.setattr(mamba2, "TOKENS_TOGETHER", 60)
    torch.manual_seed(0)
    block = Mamba2(16, state_width=6, head_width=8, expand=2).double()
    found = []
    for again in (False, True):
        block.again = again
        u = torch.randn(2, 150, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        block.zero_grad()
        y = block(u)
        y.square().sum().backward()
        found.append([y.detach(), u.grad, *(parameter.grad for parameter in block.parameters())])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-11, atol=1e-11)
