"""The canonical form of low-rank pairs, which are defined only up to an invertible r × r matrix.

B · A = (B · M) · (M⁻¹ · A) for every M, so two adapters with the same function may have different weights (LoRA, Hu et
al. 2021, does not fix M). A balanced pair is U · √S and √S · Vᵀ from the singular value decomposition of its product,
with descending singular values and a positive largest entry in each column of U · √S.

The balanced form jumps. If two entries of a column, or two singular values, are nearly equal, the next checkpoint of
the same run may have other signs or rotated columns, and the mean of the two is no adapter. So a balanced pair is then
rotated to be as close as possible to a `reference`, the previous checkpoint (orthogonal Procrustes problem, Schönemann
1966). A rotation R keeps the product: (B · R) · (Rᵀ · A) = B · A.

r rank, I inputs, O outputs of the module that a pair changes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

# The ends of the names of a pair's tensors: A, then B. The second pair is that of an embedding (peft 0.21.2).
ENDS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))


def canonical(state_dict: dict[str, Tensor], reference: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the same adapter with its pairs in canonical form, in the same order; other tensors stay the same.

    `reference` holds the pairs of an adapter in that form; the new pairs are rotated towards it.
    """
    adapter = dict(state_dict)
    for names in pairs(state_dict):
        pair = balanced(*_matrices(state_dict, names))
        if reference:
            pair = rotated(*pair, *_matrices(reference, names))
        for name, factor in zip(names, pair, strict=True):
            adapter[name] = factor.to(state_dict[name].dtype).reshape(state_dict[name].shape)
    return adapter


def _matrices(state_dict: Mapping[str, Tensor], names: tuple[str, str]) -> list[Tensor]:
    """Return A [r, I] and B [O, r]; a convolution's A is [r, channels, height, width], its B [O, r, 1, 1]."""
    return [state_dict[name].double().flatten(1) for name in names]


def pairs(names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the names of each pair's two tensors."""
    for name in names:
        for end, other_end in ENDS:
            second = name.removesuffix(end) + other_end
            if name.endswith(end) and second in names:
                yield name, second


def balanced(a_rI: Tensor, b_Or: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pair (A, B) as √S · Vᵀ and U · √S; the product B · A stays the same up to rounding.

    The function decomposes the r × r core between two orthogonal factors, so it forms no O × I matrix.
    """
    q_a, r_a = torch.linalg.qr(a_rI.T)
    q_b, r_b = torch.linalg.qr(b_Or)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right = q_b @ u * s.sqrt(), s.sqrt()[:, None] * (vt @ q_a.T)
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()[0]
    # A column of zeros has no sign.
    signs[signs == 0] = 1
    a, b = torch.zeros_like(a_rI), torch.zeros_like(b_Or)
    # A module narrower than r has fewer singular values; the rest of its pair is zero.
    a[: len(s)], b[:, : len(s)] = signs[:, None] * right, left * signs
    return a, b


def rotated(a_rI: Tensor, b_Or: Tensor, to_a_rI: Tensor, to_b_Or: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pair (Rᵀ · A, B · R) closest to the pair `to`, R orthogonal; the product stays the same."""
    u, _, vt = torch.linalg.svd(b_Or.T @ to_b_Or + a_rI @ to_a_rI.T)
    rotation_rr = u @ vt
    return rotation_rr.T @ a_rI, b_Or @ rotation_rr
