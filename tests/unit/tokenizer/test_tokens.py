"""The tokens of a zoo: which checkpoints are refused, and what is left on disk."""

import errno
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rpg.config.experiment import Tokens
from rpg.tokenizer.normalization import Stats, tokenize
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.tokenizer.tokens import safetensors_header, write_tokens
from rpg.utils.errors import UserError
from rpg.utils.files import write_sealed


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished miniature's zoo, to spoil."""
    shutil.copytree(finished / "results/mini/zoo", tmp_path / "zoo")
    return tmp_path


def change(zoo: Path, edit) -> Path:
    """Edit the last checkpoint and its entry, as if it had been trained so."""
    from rpg.utils.files import sha256

    tree = json.loads((zoo / "checkpoints.json").read_text())
    entry = tree["checkpoints"][-1]
    path = zoo / entry["file"]
    state_dict = load_file(path)
    edit(state_dict)
    save_file(state_dict, path)
    entry["sha256"] = sha256(path)
    write_sealed(zoo / "checkpoints.json", tree)
    return path


def spoil_shape(state_dict: dict[str, Tensor]) -> None:
    state_dict["fc.weight"] = state_dict["fc.weight"][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("fc.bias"), "tensor 'fc.bias' is missing"),
        (lambda s: s.update(extra=torch.zeros(3)), "tensor 'extra' is not in"),
        (spoil_shape, r"tensor 'fc.weight' has shape \[10, 7\], not \[10, 8\]"),
        (lambda s: s["fc.bias"][0].fill_(math.nan), "tensor 'fc.bias' holds NaN or Inf"),
        (lambda s: s["bn1.running_var"][0].fill_(-1), "tensor 'bn1.running_var' holds a negative variance"),
        (lambda s: s.update({"fc.bias": s["fc.bias"].half()}), "tensor 'fc.bias' is float16, not float32"),
        (lambda s: s["bn1.running_var"][0].fill_(math.inf), "tensor 'bn1.running_var' holds NaN or Inf"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_by_name(workspace, edit, message: str) -> None:
    path = change(workspace / "zoo", edit)
    with pytest.raises(UserError, match=message) as error:
        write_tokens(workspace / "zoo", Tokens(width=64), workspace / "tokens")
    assert str(path) in str(error.value)
    assert not (workspace / "tokens/tokens.safetensors").exists()


def test_checkpoint_changed_after_training_is_refused(workspace) -> None:
    path = next((workspace / "zoo/0000-0001").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="changed since it was trained") as error:
        write_tokens(workspace / "zoo", Tokens(width=64), workspace / "tokens")
    assert str(path) in str(error.value)


def test_changed_checkpoint_explains_other_faults(workspace) -> None:
    zoo = workspace / "zoo"
    change(zoo, lambda state_dict: state_dict["fc.bias"][0].fill_(math.nan))
    path = next((zoo / "0000-0001").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="changed since it was trained") as error:
        write_tokens(zoo, Tokens(width=64), workspace / "tokens")
    assert str(path) in str(error.value)
    assert not list((workspace / "tokens").iterdir())


@pytest.mark.parametrize(("block", "ahead"), [(1, 1), (1000, 3), (2**23, 4)])
def test_store_is_that_of_one_checkpoint_after_the_other(workspace, monkeypatch, block: int, ahead: int) -> None:
    """To the byte, whatever the blocks and the number of torch's threads."""
    monkeypatch.setattr("rpg.tokenizer.tokens.BLOCK", block)
    monkeypatch.setattr("rpg.tokenizer.tokens.AHEAD", ahead)
    monkeypatch.setattr("rpg.tokenizer.tokens.WRITE", 333)
    folder, threads = workspace / "tokens", torch.get_num_threads()
    try:
        torch.set_num_threads(1 + block % 2)
        write_tokens(workspace / "zoo", Tokens(width=64), folder)
    finally:
        torch.set_num_threads(threads)
    store = TokenStore(folder)
    names = json.loads((workspace / "zoo/checkpoints.json").read_text())["tensors"]
    state_dicts = [read_checkpoint(workspace / "zoo" / entry.file, names) for entry in store.checkpoints]
    stats = Stats.of(store.layout, state_dicts)
    for name, values in vars(stats).items():
        assert torch.equal(values, vars(store.stats)[name])
    tokens_NLD = torch.stack([tokenize(state_dict, store.layout, stats) for state_dict in state_dicts])
    assert (folder / "tokens.safetensors").read_bytes().endswith(tokens_NLD.numpy().tobytes())
    # Opening the file checks the hash that was computed while writing.
    assert torch.equal(store[1].view(torch.int32), tokens_NLD[1].view(torch.int32))


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
def test_full_disk_is_an_error_and_leaves_nothing(workspace, monkeypatch, call: str) -> None:
    def fill(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"rpg.tokenizer.tokens.os.{call}", fill)
    with pytest.raises(OSError, match="No space left"):
        write_tokens(workspace / "zoo", Tokens(width=64), workspace / "tokens")
    assert not list((workspace / "tokens").iterdir())


def test_reading_one_checkpoint_leaves_the_others_on_disk(tmp_path: Path) -> None:
    """A store of 400 MB is opened and read at one place without its memory growing by more than that place."""
    import resource

    shape, path = (100, 10, 100_000), tmp_path / "tokens.safetensors"
    header = safetensors_header("tokens", shape)
    path.write_bytes(header)
    np.memmap(path, np.float32, "r+", offset=len(header), shape=shape)[57] = 7.0
    from safetensors import safe_open

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one = safe_open(path, "pt").get_slice("tokens")[57]
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert one.shape == shape[1:]
    assert (one == 7).all()
    assert grown_mb < 40
