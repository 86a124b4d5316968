"""Mamba2 (Dao and Gu 2024, arXiv 2405.21060) in plain PyTorch, with the parameters of `mamba_ssm.Mamba2`.

The state-space recurrence, per head with state h [P, N] and scalar decay:

    h_l = exp(Δ_l A) h_{l-1} + Δ_l x_l B_lᵀ        y_l = h_l C_l + D x_l

runs in chunks (state-space duality, section 6). Inside a chunk it is a masked matrix product; between chunks the code
carries the state. So time and memory are linear in the length. On a GPU the kernel of `mamba_ssm` computes the same
values if the package is installed; otherwise torch's compiler makes kernels from this code.

Shape letters of this file: B batch, L length, I inner width (= H·P), H heads, P head width, N state width,
C chunks, Q chunk length.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rpg.utils.device import compiles

CHUNK = 64
# On an H200, 128 is faster than 64 and uses less memory (docs/performance.md).
KERNEL_CHUNK = 128
# The number of heads, and of tokens, in one part of the recomputation.
HEADS_TOGETHER = 16
TOKENS_TOGETHER = 1024


@cache
def _kernel() -> Any:
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        return None
    return mamba_chunk_scan_combined


def _uncompiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Exclude `function` from compilation.

    Only GPUs use the compiler here. Without a GPU the function stays as it is, because loading the compiler takes a
    second.
    """
    return torch.compiler.disable(function) if torch.cuda.device_count() else function


# A compiled block excludes the scan: the scan is a kernel or is compiled on its own.
@_uncompiled
def scan(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor) -> Tensor:
    """Return y [B, L, H, P] of the recurrence above, from a zero state, for any length L.

    `dt_BLH` must be positive (after softplus), `A_H` negative.
    """
    if x_BLHP.is_cuda and _kernel() is not None:
        return _kernel()(x_BLHP, dt_BLH, A_H, B_BLN.unsqueeze(2), C_BLN.unsqueeze(2), chunk_size=KERNEL_CHUNK, D=D_H)
    function = _compiled_scan() if compiles(x_BLHP.device) else plain_scan
    return function(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, D_H)


@cache
def _compiled_scan() -> Callable[..., Tensor]:
    return torch.compile(plain_scan)


def plain_scan(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor) -> Tensor:
    """Compute `scan` with plain torch operations."""
    batch, length, heads, head_width = x_BLHP.shape
    # All chunks have one length, with the least padding. Carrying the state costs as much as a longer chunk, so a
    # short sequence is one chunk.
    chunks = 1 if length <= 2 * CHUNK else math.ceil(length / CHUNK)
    chunk = math.ceil(length / chunks)
    # The padding of the last chunk has Δ = 0: it neither decays nor feeds the state.
    padding = -length % chunk

    def chunked(tensor: Tensor) -> Tensor:
        padded = functional.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, padding))
        return padded.reshape(batch, -1, chunk, *tensor.shape[2:])

    # Decays multiply over a whole chunk; in bfloat16 their logarithms would lose significant digits.
    dt_BCQH = chunked(dt_BLH.to(torch.promote_types(dt_BLH.dtype, torch.float32)))
    x_BCQHP = chunked(x_BLHP) * dt_BCQH.unsqueeze(-1)
    B_BCQN, C_BCQN = chunked(B_BLN).to(x_BCQHP.dtype), chunked(C_BLN).to(x_BCQHP.dtype)
    log_BHCQ = (dt_BCQH * A_H.to(dt_BCQH.dtype)).permute(0, 3, 1, 2).cumsum(-1)

    # Inside a chunk: y_q = Σ_{k ≤ q} (C_q · B_k) exp(Σ_{k < j ≤ q} Δ_j A) Δ_k x_k
    decay_BHCQQ = _Decay.apply(log_BHCQ)
    mix_BCQQ = (C_BCQN @ B_BCQN.transpose(-1, -2)).to(decay_BHCQQ.dtype)
    x_BHCQP = x_BCQHP.permute(0, 3, 1, 2, 4)
    y_BHCQP = (mix_BCQQ.unsqueeze(1) * decay_BHCQQ) @ x_BHCQP

    if chunks > 1:
        # Each chunk's contribution to the state at its end, and each chunk's starting state.
        to_end_BHCQ = (log_BHCQ[..., -1:] - log_BHCQ).exp()
        added_BHCNP = B_BCQN.transpose(-1, -2).unsqueeze(1) @ (x_BHCQP * to_end_BHCQ.unsqueeze(-1))
        over_BHC11 = log_BHCQ[..., -1].exp()[..., None, None]
        from_start_BHCQP = C_BCQN.unsqueeze(1) @ _starts(over_BHC11, added_BHCNP)
        y_BHCQP = y_BHCQP + from_start_BHCQP * log_BHCQ.exp().unsqueeze(-1)

    y_BLHP = y_BHCQP.permute(0, 2, 3, 1, 4).reshape(batch, -1, heads, head_width)[:, :length]
    return y_BLHP.to(x_BLHP.dtype) + D_H.unsqueeze(-1).to(x_BLHP.dtype) * x_BLHP


@_uncompiled
def _starts(over_BHC11: Tensor, added_BHCNP: Tensor) -> Tensor:
    """Return the starting state [B, H, C, N, P] of each chunk from the chunks' factors and addends of the state.

    Not compiled: the compile time would grow with the number of chunks.
    """
    state_BHNP, starts = torch.zeros_like(added_BHCNP[:, :, 0]), []
    # Unbind once: the gradient of each single index would be as large as all chunks together.
    for over_BH11, added_BHNP in zip(over_BHC11.unbind(2), added_BHCNP.unbind(2), strict=True):
        starts.append(state_BHNP)
        state_BHNP = torch.addcmul(added_BHNP, state_BHNP, over_BH11)
    return torch.stack(starts, dim=2)


def scan_again(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLN: Tensor, C_BLN: Tensor, D_H: Tensor) -> Tensor:
    """Compute `scan` without keeping activations; the backward pass computes them again, a few heads at a time.

    The kernel of `mamba_ssm` already works this way.
    """
    if x_BLHP.is_cuda and _kernel() is not None:
        return scan(x_BLHP, dt_BLH, A_H, B_BLN, C_BLN, D_H)
    parts = [
        _again(scan, x, dt, A, B_BLN, C_BLN, D)
        for x, dt, A, D in zip(
            x_BLHP.split(HEADS_TOGETHER, 2),
            dt_BLH.split(HEADS_TOGETHER, 2),
            A_H.split(HEADS_TOGETHER),
            D_H.split(HEADS_TOGETHER),
            strict=True,
        )
    ]
    return torch.cat(parts, dim=2)


def _again(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return `function(*inputs)`; the backward pass computes the activations again."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class _Decay(torch.autograd.Function):
    """Map log [..., Q] to exp(log_q - log_k) for k ≤ q and to 0 for k > q, [..., Q, Q].

    The tensors [B, H, C, Q, Q] are the largest of a block, so each pass over them costs time.
    """

    @staticmethod
    def forward(ctx: Any, log_Q: Tensor) -> Tensor:
        # Mask before exp, because exp would overflow for k > q. exp is not in place: torch's compiler would lose the
        # gradient.
        later_QQ = torch.full(log_Q.shape[-1:] * 2, -math.inf, dtype=log_Q.dtype, device=log_Q.device).triu(1)
        decay_QQ = (log_Q.unsqueeze(-1) - log_Q.unsqueeze(-2)).add_(later_QQ).exp()
        ctx.save_for_backward(decay_QQ)
        return decay_QQ

    @staticmethod
    def backward(ctx: Any, grad_QQ: Tensor) -> Tensor:
        (decay_QQ,) = ctx.saved_tensors
        of_log_QQ = grad_QQ * decay_QQ
        return of_log_QQ.sum(-1) - of_log_QQ.sum(-2)


class _CausalConvolution(torch.autograd.Function):
    """Compute y_l = bias + Σ_k weight_k · x_{l - K + 1 + k} per channel: x [B, L, I], weight [K, I], bias [I].

    The code takes K in-place products of whole tensors. torch's convolution with one group per channel takes twice as
    long on a CPU, forward and backward, and copies its padded input.
    """

    @staticmethod
    def forward(ctx: Any, x_BLI: Tensor, weight_KI: Tensor, bias_I: Tensor) -> Tensor:
        ctx.save_for_backward(x_BLI, weight_KI)
        y_BLI = torch.addcmul(bias_I, x_BLI, weight_KI[-1])
        for late, weight_I in enumerate(weight_KI.flip(0)[1:], 1):
            y_BLI[:, late:].addcmul_(x_BLI[:, :-late], weight_I)
        return y_BLI

    @staticmethod
    def backward(ctx: Any, grad_BLI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BLI, weight_KI = ctx.saved_tensors
        grad_x_BLI, grad_bias_I = grad_BLI * weight_KI[-1], grad_BLI.sum((0, 1))
        grads_I = [(grad_BLI * x_BLI).sum((0, 1))]
        for late, weight_I in enumerate(weight_KI.flip(0)[1:], 1):
            grad_x_BLI[:, :-late].addcmul_(grad_BLI[:, late:], weight_I)
            grads_I.append((grad_BLI[:, late:] * x_BLI[:, :-late]).sum((0, 1)))
        return grad_x_BLI, torch.stack(grads_I[::-1]), grad_bias_I


class GatedNorm(nn.Module):
    """Compute RMSNorm(y · silu(z)) · weight for y and z [..., I]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = y * functional.silu(z)
        return functional.rms_norm(gated, self.weight.shape, self.weight.to(gated.dtype), eps=1e-5)


class Mamba2(nn.Module):
    """One Mamba2 block, u [B, L, input width] → [B, L, width], with the state dict of `mamba_ssm.Mamba2`.

    The block has one group, a gated RMSNorm after the scan, a convolution with bias and projections without bias.
    `input_width` sets an input width other than the output width, as in the second block of the published 16384-wide
    networks. If `again` is set, the backward pass computes the activations of the scan again. Raises ValueError if
    `head_width` does not divide `expand` · `width`.
    """

    again = False

    def __init__(
        self,
        width: int,
        *,
        state_width: int = 128,
        head_width: int = 64,
        expand: int = 2,
        conv_width: int = 4,
        input_width: int | None = None,
    ) -> None:
        super().__init__()
        inner = expand * width
        if inner % head_width:
            raise ValueError(f"expand · width = {inner} must be a multiple of head_width = {head_width}")
        heads = inner // head_width
        self.sizes = (inner, state_width, heads, head_width)
        mixed = inner + 2 * state_width
        self.in_proj = nn.Linear(input_width or width, inner + mixed + heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, conv_width, groups=mixed)
        # Δ starts log-uniform in [0.001, 0.1], stored before softplus; A starts uniform in [-16, -1].
        dt = torch.exp(torch.rand(heads) * math.log(100) + math.log(0.001)).clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, u_BLM: Tensor) -> Tensor:
        inner, state_width, heads, head_width = self.sizes
        mixed = inner + 2 * state_width
        z_BLI, xBC_BL, dt_BLH = self.in_proj(u_BLM).split([inner, mixed, heads], dim=-1)
        convolved_BL = _again(self.convolve, xBC_BL) if self.again else self.convolve(xBC_BL)
        x_BLI, B_BLN, C_BLN = convolved_BL.split([inner, state_width, state_width], dim=-1)
        dt_BLH = functional.softplus(dt_BLH + self.dt_bias)
        A_H = -torch.exp(self.A_log.float() if self.A_log.dtype != torch.float64 else self.A_log)
        scanned = scan_again if self.again else scan
        y_BLHP = scanned(x_BLI.unflatten(-1, (heads, head_width)), dt_BLH, A_H, B_BLN, C_BLN, self.D)
        y_BLI = y_BLHP.flatten(-2)
        return self.out_proj(self._norm_again(y_BLI, z_BLI) if self.again else self.norm(y_BLI, z_BLI))

    def _norm_again(self, y_BLI: Tensor, z_BLI: Tensor) -> Tensor:
        parts = zip(y_BLI.split(TOKENS_TOGETHER, 1), z_BLI.split(TOKENS_TOGETHER, 1), strict=True)
        return torch.cat([_again(self.norm, y, z) for y, z in parts], dim=1)

    def convolve(self, x_BL: Tensor) -> Tensor:
        """Return SiLU of the causal convolution of each channel of `x_BL` [B, L, channels]."""
        assert self.conv1d.bias is not None
        weight_KI = self.conv1d.weight[:, 0].t().contiguous()
        return functional.silu(_CausalConvolution.apply(x_BL, weight_KI.to(x_BL), self.conv1d.bias.to(x_BL)))
