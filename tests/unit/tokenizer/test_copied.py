"""Tensors that are copied instead of generated."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rpg.tokenizer.copied import Copied, copied_tensors
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, detokenize, tokenize
from rpg.utils.errors import UserError


def network(seed: int, **fixed: Tensor) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    embedding = torch.randn(6, 4, generator=draw)
    own = {"embedding": embedding, "hidden": torch.randn(4, 4, generator=draw), "head": embedding.clone()}
    return {**own, **fixed}


TIED = {"head": "embedding"}


def found(zoo: list[dict[str, Tensor]], buffers: tuple[str, ...] = (), canonical: bool = False) -> Copied:
    return copied_tensors(lambda: iter(zoo), buffers, TIED, canonical)


def test_frozen_tied_and_state_tensors_are_copied() -> None:
    mask = torch.full((4, 4), -torch.inf).triu(1)
    zoo = [network(seed, frozen=torch.arange(8.0), u=torch.full((4,), float(seed)), mask=mask) for seed in range(3)]
    copied = found(zoo, ("u",))
    assert copied == Copied(["u"], ["frozen", "mask"], {"head": "embedding"})
    told = "state of the network: u; equal in all checkpoints: frozen, mask; tied to another tensor: head"
    assert str(copied) == told
    layout = Layout.of(zoo[0], 8, copied=copied)
    assert [tensor.name for tensor in layout.tokenized] == ["embedding", "hidden"]
    assert [tensor.name for tensor in layout.skipped] == ["frozen", "u", "mask"]
    for state_dict in zoo:
        layout.check(state_dict, "file", "remedy")
    stats = Stats.of(layout, zoo)
    skipped = {tensor.name: zoo[1][tensor.name] for tensor in layout.skipped}
    back = detokenize(tokenize(zoo[1], layout, stats), layout, stats, skipped)
    assert list(back) == list(zoo[1])
    # Copies keep every bit, and an infinite mask stays one.
    for name in ("frozen", "u", "mask"):
        assert torch.equal(back[name], zoo[1][name])
    assert torch.equal(back["head"], back["embedding"])
    assert back["head"].data_ptr() != back["embedding"].data_ptr()
    torch.testing.assert_close(back["embedding"], zoo[1]["embedding"])


def test_a_difference_in_one_checkpoint_ends_both() -> None:
    zoo = [network(seed, frozen=torch.zeros(100)) for seed in range(3)]
    zoo[2]["frozen"] = torch.zeros(100)
    zoo[2]["frozen"][99] = 1e-7
    zoo[2]["head"] = zoo[2]["embedding"] + 1e-7
    assert found(zoo) == Copied([], [], {})


def test_equality_alone_is_no_tie() -> None:
    """Two biases that are added to one sum are equal in every checkpoint, and are two weights."""
    zoo = [network(seed) for seed in range(3)]
    assert copied_tensors(lambda: iter(zoo), (), {}, False) == Copied([], [], {})


def test_a_nan_is_equal_to_nothing() -> None:
    assert found([network(seed, frozen=torch.full((4,), torch.nan)) for seed in range(2)]).constant == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_zoo_of_one_network_is_generated(count: int) -> None:
    """If nothing differs, constancy tells nothing."""
    assert found([network(0)] * count).constant == []


def test_pairs_in_canonical_form_are_generated() -> None:
    """The form changes a constant factor, as that of LoRA-FA."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(2, 4, generator=draw)
    zoo = [
        {"m.lora_A.weight": first, "m.lora_B.weight": torch.randn(4, 2, generator=draw), "table": torch.ones(8)}
        for _ in range(3)
    ]
    assert found(zoo, canonical=True).constant == ["table"]
    assert found(zoo).constant == ["m.lora_A.weight", "table"]


def test_most_zoos_are_read_no_further_than_the_second_checkpoint() -> None:
    read = []

    def state_dicts() -> Iterator[dict[str, Tensor]]:
        for seed in range(5):
            read.append(seed)
            yield {"weight": torch.full((4,), float(seed)), "bias": torch.full((4,), seed + 0.5)}

    assert copied_tensors(state_dicts, (), {}, False) == Copied([], [], {})
    assert read == [0, 1]


def test_chosen_tensors_alone_are_generated() -> None:
    zoo = [network(seed, frozen=torch.zeros(8)) for seed in range(3)]
    copied = copied_tensors(lambda: iter(zoo), (), TIED, False, ["hid*", "frozen"])
    # Neither half of a tie is a tie if one of the two is left out.
    assert copied == Copied([], ["frozen"], {}, ("embedding", "head"))
    assert str(copied) == "equal in all checkpoints: frozen; left out by tokens.only: embedding, head"
    assert [tensor.name for tensor in Layout.of(zoo[0], 8, copied=copied).tokenized] == ["hidden"]
    with pytest.raises(UserError) as error:
        copied_tensors(lambda: iter(zoo), (), TIED, False, ["hidden", "heads"])
    assert str(error.value).startswith("params.yaml: tokens.only: no tensor 'heads'; did you mean 'head'")
