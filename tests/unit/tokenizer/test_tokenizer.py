"""The tokenizer as a file of tensors."""

import pytest
import torch

from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, tokenize
from rpg.tokenizer.tokenizer import Tokenizer

NETWORKS = [{"a": torch.randn(3, 4), "steps": torch.tensor(seed), "b": torch.randn(5)} for seed in (7, 9)]


@pytest.fixture
def tokenizer() -> Tokenizer:
    layout = Layout.of(NETWORKS[0], 4)
    skipped = {"steps": torch.stack([network["steps"] for network in NETWORKS])}
    return Tokenizer(layout, Stats.of(layout, NETWORKS), skipped)


def test_tensors_restore_it(tokenizer: Tokenizer) -> None:
    again = Tokenizer.of_tensors(tokenizer.layout, tokenizer.tensors(), 2)
    tokens_BLD = torch.stack([tokenize(network, tokenizer.layout, tokenizer.stats) for network in NETWORKS])
    found = again.detokenize(tokens_BLD, torch.tensor([0, 1]))
    for index, network in enumerate(NETWORKS):
        assert list(found) == list(network)
        for name, tensor in network.items():
            torch.testing.assert_close(found[name][index], tensor)
    # The copied tensors are the state's.
    assert again.detokenize(tokens_BLD, torch.tensor([1, 1]))["steps"].tolist() == [9, 9]


def test_other_tensors_do_not_fit(tokenizer: Tokenizer) -> None:
    tensors = tokenizer.tensors()
    assert sorted(tensors) == ["skipped.steps", "stats.floor", "stats.mean", "stats.scale", "stats.std"]
    with pytest.raises(ValueError, match=r"no tensor 'skipped.steps'"):
        Tokenizer.of_tensors(tokenizer.layout, {name: of for name, of in tensors.items() if "steps" not in name}, 2)
    for changed in ({"stats.mean": torch.zeros(3)}, {"skipped.steps": torch.zeros(3)}):
        with pytest.raises(ValueError, match="do not fit the layout"):
            Tokenizer.of_tensors(tokenizer.layout, tensors | changed, 2)
