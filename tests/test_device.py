import pytest
import torch

from rpg.device import bfloat16_products


def test_products_are_rounded_inside_and_as_before_outside() -> None:
    """To 8 bits where the processor has units for it, exactly elsewhere; the sums are float32's in both."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 256, generator=draw), torch.randn(256, 48, generator=draw)
    exact = a @ b
    with bfloat16_products(True):
        rounded = a @ b
    with bfloat16_products(False):
        assert torch.equal(a @ b, exact)
    assert torch.equal(a @ b, exact)
    by_hand = a.bfloat16().float() @ b.bfloat16().float()
    error, of_rounding = (rounded - exact).abs().max(), (by_hand - exact).abs().max()
    assert error == 0 or error == pytest.approx(of_rounding, rel=1e-3)


def test_products_are_as_before_after_an_error() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(KeyError), bfloat16_products(True):
        raise KeyError
    assert torch.backends.mkldnn.matmul.fp32_precision == before
