"""One form of low-rank pairs: the product stays, the form does not depend on how it was written."""

import torch

from rpg.canonical import balanced, canonical

torch.manual_seed(0)
A, B = torch.randn(4, 12), torch.randn(20, 4)


def test_product_stays_and_so_does_what_is_no_pair() -> None:
    pair = {"x.lora_A.weight": A, "x.lora_B.weight": B, "x.lora_magnitude_vector": torch.ones(20)}
    found = canonical(pair)
    assert list(found) == list(pair)
    torch.testing.assert_close(found["x.lora_B.weight"] @ found["x.lora_A.weight"], B @ A, atol=1e-5, rtol=1e-5)
    assert found["x.lora_magnitude_vector"] is pair["x.lora_magnitude_vector"]


def test_form_is_that_of_the_whole_products_decomposition() -> None:
    a, b = balanced(A, B)
    u, s, vt = torch.linalg.svd((B @ A).double())
    for k in range(4):
        sign = b[:, k][b[:, k].abs().argmax()].sign()
        assert sign == 1
        torch.testing.assert_close(b[:, k].double().abs(), (u[:, k] * s[k].sqrt()).abs(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(a[k].double().abs(), (vt[k] * s[k].sqrt()).abs(), atol=1e-5, rtol=1e-5)


def test_any_invertible_matrix_between_the_factors_is_undone() -> None:
    mixed = torch.randn(4, 4) + 3 * torch.eye(4)
    a, b = balanced(torch.linalg.solve(mixed, A), B @ mixed)
    expected_a, expected_b = balanced(A, B)
    torch.testing.assert_close(a, expected_a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(b, expected_b, atol=1e-4, rtol=1e-4)


def test_twice_is_once() -> None:
    once = balanced(A, B)
    twice = balanced(*once)
    for first, second in zip(once, twice, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_untrained_pair_and_a_module_narrower_than_the_rank() -> None:
    a, b = balanced(A, torch.zeros(20, 4))
    assert not a.any()
    assert not b.any()
    narrow = torch.randn(2, 4)
    a, b = balanced(A, narrow)
    torch.testing.assert_close(b @ a, narrow @ A, atol=1e-5, rtol=1e-5)
    assert not b[:, 2:].any()
    assert a.dtype == b.dtype == torch.float32
