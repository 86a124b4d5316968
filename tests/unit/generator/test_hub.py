"""The portable generator in Python, from a folder and from the hub's cache."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import equal

from rpg import Generator
from rpg.utils.errors import UserError

HELD_OUT = "0100111010"


def test_a_network_is_built(taken: Path) -> None:
    generator = Generator.from_pretrained(taken)
    network = generator.network(code=HELD_OUT, seed=4)
    assert equal(dict(network.state_dict()), generator.generate(code=HELD_OUT, seed=4))
    assert not network.training
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 2)


def test_folders_that_hold_no_generator(taken: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; a model on the hub needs revision="):
        Generator.from_pretrained("org/name")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no generator in it"):
        Generator.from_pretrained(tmp_path / "other")
    generator = Generator.from_pretrained(taken)
    (tmp_path / "other/config.json").write_text("{}")
    with pytest.raises(UserError, match="holds other files"):
        generator.save_pretrained(tmp_path / "other")
    assert (tmp_path / "other/config.json").read_text() == "{}"


def test_a_name_on_the_hub(taken: Path, tmp_path: Path) -> None:
    """The hub's cache holds links to the files; a commit that it has needs no internet."""
    commit = "a" * 40
    snapshot = tmp_path / "hub/models--org--name/snapshots" / commit
    blobs = tmp_path / "hub/models--org--name/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in taken.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    generator = Generator.from_pretrained(
        "org/name", revision=commit, cache_dir=tmp_path / "hub", local_files_only=True
    )
    assert equal(generator.generate(seed=1), Generator.from_pretrained(taken).generate(seed=1))
