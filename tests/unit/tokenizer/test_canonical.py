"""One form of low-rank pairs: the product stays, the form does not depend on how it was written."""

import torch

from rpg.tokenizer.canonical import balanced, canonical, rotated

torch.manual_seed(0)
A, B = torch.randn(4, 12, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)


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
    mixed = torch.randn(4, 4, dtype=torch.float64) + 3 * torch.eye(4, dtype=torch.float64)
    a, b = balanced(torch.linalg.solve(mixed, A), B @ mixed)
    expected_a, expected_b = balanced(A, B)
    torch.testing.assert_close(a, expected_a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(b, expected_b, atol=1e-4, rtol=1e-4)


def test_twice_is_once() -> None:
    once = balanced(A, B)
    twice = balanced(*once)
    for first, second in zip(once, twice, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_a_pair_is_rotated_onto_the_one_that_it_came_from() -> None:
    """Signs and rotated columns are undone exactly; the product of what is near stays its own."""
    a, b = balanced(A, B)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    flips = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    for other_a, other_b in ((rotation.T @ a, b @ rotation), (flips[:, None] * a, b * flips)):
        found_a, found_b = rotated(other_a, other_b, a, b)
        torch.testing.assert_close(found_a, a, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found_b, b, atol=1e-5, rtol=1e-5)
    near_a, near_b = a + 0.01 * torch.randn_like(a), b + 0.01 * torch.randn_like(b)
    found_a, found_b = rotated(rotation.T @ near_a, near_b @ rotation, a, b)
    torch.testing.assert_close(found_b @ found_a, near_b @ near_a, atol=1e-5, rtol=1e-5)
    assert (found_a - a).norm() < 0.05 * a.norm()
    assert (found_b - b).norm() < 0.05 * b.norm()


def test_nearly_equal_numbers_do_not_turn_the_form_of_the_next_save() -> None:
    """The largest number of a column changes its place, and sign, between two saves; the mean stays an adapter."""
    first_b = torch.tensor([[1.0], [-0.999], [0.1]])
    second_b = torch.tensor([[0.999], [-1.0], [0.1]])
    first, second = ({"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": b} for b in (first_b, second_b))
    alone = [canonical(first), canonical(second)]
    assert torch.stack([pair["x.lora_B.weight"] for pair in alone]).mean(0).abs().max() < 0.1
    reference = canonical(first)
    together = [canonical(first, reference), canonical(second, reference)]
    mean = {name: torch.stack([pair[name] for pair in together]).mean(0) for name in reference}
    product = mean["x.lora_B.weight"] @ mean["x.lora_A.weight"]
    torch.testing.assert_close(product, ((first_b + second_b) / 2).expand(3, 2), atol=1e-3, rtol=1e-3)


def test_an_untrained_first_save_leaves_the_next_ones_alike() -> None:
    """B of a new adapter is zero: it turns nothing, and the saves after it are rotated to each other."""
    untrained, *saves = (
        {"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.tensor(b)[:, None]}
        for b in ([0.0, 0.0, 0.0], [1.0, -0.999, 0.1], [0.999, -1.0, 0.1])
    )
    before, found = canonical(untrained), []
    for save in saves:
        before = canonical(save, before)
        found.append(before["x.lora_B.weight"])
    assert (found[0] - found[1]).abs().max() < 0.01
    assert found[0].abs().max() > 0.9


def test_half_precision_is_rounded_once() -> None:
    half = {"x.lora_A.weight": A.bfloat16(), "x.lora_B.weight": B.bfloat16()}
    exact = {name: tensor.double() for name, tensor in half.items()}
    found = canonical(half, canonical(half))
    for name, tensor in canonical(exact, canonical(half)).items():
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name], tensor.bfloat16(), rtol=0, atol=0)


def test_untrained_pair_and_a_module_narrower_than_the_rank() -> None:
    a, b = balanced(A, torch.zeros_like(B))
    assert not a.any()
    assert not b.any()
    narrow = torch.randn(2, 4, dtype=torch.float64)
    a, b = balanced(A, narrow)
    torch.testing.assert_close(b @ a, narrow @ A, atol=1e-5, rtol=1e-5)
    assert not b[:, 2:].any()
    assert a.dtype == b.dtype == torch.float64
