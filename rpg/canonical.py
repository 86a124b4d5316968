"""One form for what can be written in many: a low-rank pair is defined up to an invertible r × r matrix.

B · A = (B · M) · (M⁻¹ · A) for every M, so two adapters that do the same may have quite different numbers (LoRA, Hu et
al. 2021, has no rule for which). Here each pair is brought into the form U · √S and √S · Vᵀ of its product's singular
value decomposition, singular values falling, the largest number of each column of U · √S positive.

r rank, I inputs, O outputs of the module that a pair changes.
"""

import torch
from torch import Tensor

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"


def canonical(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same adapter with its pairs in one form, in the same order; other tensors stay as they are."""
    found = dict(state_dict)
    for name in state_dict:
        second = name.removesuffix(FIRST) + SECOND
        if name.endswith(FIRST) and second in state_dict:
            found[name], found[second] = balanced(state_dict[name], state_dict[second])
    return found


def balanced(a_rI: Tensor, b_Or: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (A, B) in its one form; the product B · A stays the same to within rounding.

    The decomposition is that of the r × r core between two orthogonal factors: no O × I matrix is formed.
    """
    q_a, r_a = torch.linalg.qr(a_rI.double().T)
    q_b, r_b = torch.linalg.qr(b_Or.double())
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right = q_b @ u * s.sqrt(), s.sqrt()[:, None] * (vt @ q_a.T)
    signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()[0]
    # A column of zeros has no sign.
    signs[signs == 0] = 1
    a, b = torch.zeros_like(a_rI), torch.zeros_like(b_Or)
    # A module narrower than r has fewer singular values; the rest of its pair counts nothing.
    a[: len(s)], b[:, : len(s)] = (signs[:, None] * right).to(a.dtype), (left * signs).to(b.dtype)
    return a, b
