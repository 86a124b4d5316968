import pytest
import torch
from torch.nn import functional

from rpg.config.model import ImagesCondition
from rpg.model.set_encoder import SetEncoder, support_values

PARAMS = ImagesCondition(kind="images", features=3, hidden=5, reach="all")


def images(*counts: int) -> list[torch.Tensor]:
    """Features [k, 3] of as many images for no and for yes."""
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(count, 3, generator=draw) for count in counts]


def test_by_hand() -> None:
    encoder = SetEncoder(PARAMS, 0, length=4, width=6)
    encoder.standardize(torch.tensor([[0.0, 1.0, 5.0], [2.0, 3.0, 5.0]]))
    assert encoder.mean.tolist() == [1.0, 2.0, 5.0]
    # A constant feature must not divide by zero.
    assert encoder.std.tolist() == [1.0, 1.0, 1.0]
    no, yes = images(3, 1)
    first, _, second = encoder.of_image
    parts = []
    for of_class in (no, yes):
        standard = of_class - torch.tensor([1.0, 2.0, 5.0])
        hidden = functional.silu(standard @ first.weight.T + first.bias) @ second.weight.T + second.bias
        numbers = torch.cat([standard, hidden], 1)
        ordered = numbers.sort(dim=0, descending=True).values
        second_largest = ordered[1] if len(of_class) > 1 else torch.zeros(8)
        parts.append(torch.cat([numbers.mean(0), ordered[0], second_largest]))
    expected = encoder.of_set(torch.cat(parts))
    found = encoder(support_values([[no, yes]]))
    assert found.shape == (1, 1, 6)
    torch.testing.assert_close(found[0, 0], expected)


def test_neither_order_nor_padding_matters() -> None:
    encoder = SetEncoder(PARAMS, 0, length=4, width=6, normalized=True)
    no, yes = images(4, 2)
    alone = encoder(support_values([[no, yes]]))
    torch.testing.assert_close(encoder(support_values([[no.flip(0), yes.flip(0)]])), alone)
    beside = encoder(support_values([[no, yes], images(9, 9)]))
    torch.testing.assert_close(beside[:1], alone)
    assert not torch.allclose(encoder(support_values([[yes, no]])), alone)
    torch.testing.assert_close(alone.mean(-1), torch.zeros(1, 1), atol=1e-6, rtol=0)


def test_a_repeated_image_changes_the_second_largest_number_alone() -> None:
    encoder = SetEncoder(PARAMS, 0, length=4, width=6)
    image = images(1)[0]
    once, twice = (encoder(support_values([[image, image.expand(count, -1)]])) for count in (1, 2))
    assert not torch.allclose(once, twice)
    thrice = encoder(support_values([[image, image.expand(3, -1)]]))
    torch.testing.assert_close(twice, thrice)


def test_a_vector_for_each_token() -> None:
    encoder = SetEncoder(PARAMS.model_copy(update={"reach": "each"}), 0, length=4, width=6)
    assert encoder(support_values([images(2, 2)] * 3)).shape == (3, 4, 6)


def test_gradients_are_finite_where_images_are_absent() -> None:
    encoder = SetEncoder(PARAMS, 0, length=4, width=6, normalized=True)
    encoder(support_values([images(1, 3), images(3, 1)])).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_support_values_by_hand() -> None:
    one, two = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    values = support_values([[one, two]])
    assert values.tolist() == [[[[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]], [[3.0, 4.0, 1.0], [5.0, 6.0, 1.0]]]]


@pytest.mark.parametrize("count", [1, 5, 50, 10_000])
def test_any_number_of_images(count: int) -> None:
    encoder = SetEncoder(PARAMS, 0, length=4, width=6, normalized=True)
    assert encoder(support_values([images(count, 1)])).isfinite().all()
