"""Tokens on disk."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpg.tokenizer.store import TokenStore
from rpg.utils.errors import UserError


def test_store_holds_every_checkpoint_in_order_of_seed_and_step(finished: Path) -> None:
    store = TokenStore(finished / "results/mini/tokens")
    assert [(entry.seed, entry.step) for entry in store.checkpoints] == [
        (0, 42), (0, 44), (1, 42), (1, 44), (2, 42), (2, 44),
    ]  # fmt: skip
    assert [store.state(entry) for entry in store.checkpoints] == [0, 0, 1, 1, 2, 2]
    assert len(store) == 6
    for index, entry in enumerate(store.checkpoints):
        original = load_file(finished / "results/mini/zoo" / entry.file)
        state = torch.tensor([store.state(entry)])
        back = {name: tensor[0] for name, tensor in store.detokenize(store[index][None], state).items()}
        for name, tensor in original.items():
            if tensor.is_floating_point():
                assert (back[name] - tensor).abs().max() <= 1e-6 * tensor.abs().max()


@pytest.mark.parametrize("keep", [0, 7, 100, -4])
def test_truncated_store_is_refused_by_name(finished: Path, tmp_path: Path, keep: int) -> None:
    shutil.copytree(finished / "results/mini/tokens", tmp_path / "tokens")
    path = tmp_path / "tokens/tokens.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    store = TokenStore(tmp_path / "tokens")
    with pytest.raises(UserError, match="changed since it was tokenized") as error:
        store[0]
    assert str(path) in str(error.value)


def test_changed_statistics_are_refused_by_name(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "results/mini/tokens", tmp_path / "tokens")
    path = tmp_path / "tokens/stats.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="changed since it was tokenized") as error:
        TokenStore(tmp_path / "tokens")
    assert str(path) in str(error.value)


def test_sampling_needs_no_tokens(finished: Path, tmp_path: Path) -> None:
    """Layout and statistics are enough to turn tokens into weights; the store may have stayed elsewhere."""
    shutil.copytree(finished / "results/mini/tokens", tmp_path / "tokens")
    whole = TokenStore(finished / "results/mini/tokens")
    (tmp_path / "tokens/tokens.safetensors").unlink()
    back = TokenStore(tmp_path / "tokens").detokenize(whole[0][None], torch.tensor([0]))
    assert all(
        torch.equal(back[name], tensor) for name, tensor in whole.detokenize(whole[0][None], torch.tensor([0])).items()
    )
