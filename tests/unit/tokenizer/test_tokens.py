"""The tokens of a zoo: which checkpoints are refused, and what is left on disk."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rpg.config.experiment import Tokens
from rpg.tokenizer.tokens import create_safetensors, write_tokens
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


def test_reading_one_checkpoint_leaves_the_others_on_disk(tmp_path: Path) -> None:
    """A store of 400 MB is opened and read at one place without its memory growing by more than that place."""
    import resource

    shape = (100, 10, 100_000)
    tokens = create_safetensors(tmp_path / "tokens.safetensors", "tokens", shape)
    tokens[57] = 7.0
    tokens.flush()
    del tokens
    from safetensors import safe_open

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one = safe_open(tmp_path / "tokens.safetensors", "pt").get_slice("tokens")[57]
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert one.shape == shape[1:]
    assert (one == 7).all()
    assert grown_mb < 40
