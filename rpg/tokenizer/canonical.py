"""One form for low-rank pairs: a pair is defined up to an invertible r × r matrix.

B · A = (B · M) · (M⁻¹ · A) for every M, so two adapters that compute the same may have quite different numbers (LoRA,
Hu et al. 2021, has no rule for which). Balanced, a pair is U · √S and √S · Vᵀ of its product's singular value
decomposition, singular values falling, the largest number of each column of U · √S positive.

Such a form jumps: where two numbers of a column are nearly equally large, or two singular values nearly equal, the
next save of the same run may come out with other signs or rotated columns, and the mean of both is no adapter. So a
balanced pair is then rotated to be as near as possible to a `reference`, the save before it (orthogonal Procrustes
problem, Schönemann 1966). A rotation R keeps the product: (B · R) · (Rᵀ · A) = B · A.

r rank, I inputs, O outputs of the module that a pair changes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"


def canonical(state_dict: dict[str, Tensor], reference: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The same adapter with its pairs in one form, in the same order; other tensors stay as they are.

    `reference` holds the pairs of an adapter in that form, to which this one is rotated.
    """
    found = dict(state_dict)
    for names in pairs(state_dict):
        pair = balanced(*(state_dict[name].double() for name in names))
        if reference:
            pair = rotated(*pair, *(reference[name].double() for name in names))
        for name, factor in zip(names, pair, strict=True):
            found[name] = factor.to(state_dict[name].dtype)
    return found


def pairs(names: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The names of each pair's two tensors."""
    for name in names:
        second = name.removesuffix(FIRST) + SECOND
        if name.endswith(FIRST) and second in names:
            yield name, second


def balanced(a_rI: Tensor, b_Or: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (A, B) as U · √S and √S · Vᵀ; the product B · A stays the same to within rounding.

    The decomposition is that of the r × r core between two orthogonal factors: no O × I matrix is formed.
    """
    q_a, r_a = torch.linalg.qr(a_rI.T)
    q_b, r_b = torch.linalg.qr(b_Or)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right = q_b @ u * s.sqrt(), s.sqrt()[:, None] * (vt @ q_a.T)
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()[0]
    # A column of zeros has no sign.
    signs[signs == 0] = 1
    a, b = torch.zeros_like(a_rI), torch.zeros_like(b_Or)
    # A module narrower than r has fewer singular values; the rest of its pair counts nothing.
    a[: len(s)], b[:, : len(s)] = signs[:, None] * right, left * signs
    return a, b


def rotated(a_rI: Tensor, b_Or: Tensor, to_a_rI: Tensor, to_b_Or: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (Rᵀ · A, B · R) whose distance from the pair `to` is least, R orthogonal; the product stays the same."""
    u, _, vt = torch.linalg.svd(b_Or.T @ to_b_Or + a_rI @ to_a_rI.T)
    rotation_rr = u @ vt
    return rotation_rr.T @ a_rI, b_Or @ rotation_rr
