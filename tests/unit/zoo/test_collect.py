import json
import shutil
from pathlib import Path

import pytest
from conftest import run_layers, write_params

from rpg.config.loading import load_params
from rpg.utils.errors import UserError
from rpg.utils.files import write_sealed
from rpg.zoo.collect import collect_zoo
from rpg.zoo.manifest import Checkpoint, read_zoo


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished miniature, up to its zoo, with the layers below removed."""
    shutil.copytree(finished / "results/mini/zoo", tmp_path / "results/mini/zoo")
    write_params(tmp_path)
    return tmp_path


def collect(folder: Path) -> list[Checkpoint]:
    """The checkpoints, after collecting anew."""
    collect_zoo(load_params(folder / "params.yaml").experiment("mini"), folder / "results/mini/zoo", folder / "base")
    return read_zoo(folder / "results/mini/zoo")[0]


def test_lists_the_checkpoints_of_all_shards(workspace: Path, finished: Path) -> None:
    before = (finished / "results/mini/zoo/checkpoints.json").read_bytes()
    found = [(entry.file, entry.seed, entry.step) for entry in collect(workspace)]
    assert found[0] == ("0000-0001/0000-000042.safetensors", 0, 42)
    assert found[-1] == ("0002-0003/0002-000044.safetensors", 2, 44)
    assert len(found) == 6
    assert (workspace / "results/mini/zoo/checkpoints.json").read_bytes() == before


def test_shard_without_seeds_is_removed(workspace: Path) -> None:
    write_params(workspace, zoo={"seeds": [0, 1]})
    assert {entry.seed for entry in collect(workspace)} == {0, 1}
    assert sorted(path.name for path in (workspace / "results/mini/zoo").iterdir()) == ["0000-0001", "checkpoints.json"]


def test_seed_removed_from_a_shard_is_no_stranger_in_the_tokens(workspace: Path) -> None:
    write_params(workspace, zoo={"seeds": [1, 2]})
    run_layers(workspace, "zoo", "collect", "tokens")
    layout = json.loads((workspace / "results/mini/tokens/layout.json").read_text())
    assert layout["seeds"] == [1, 2]
    assert not list((workspace / "results/mini/zoo").rglob("0000-0*.safetensors"))


@pytest.mark.parametrize(
    ("block", "key", "value"), [("zoo", "steps", 41), ("zoo", "shift", 0), ("task", "resolution", 9)]
)
def test_shard_of_another_recipe_is_refused_by_key(workspace: Path, block: str, key: str, value: int) -> None:
    write_params(workspace, **{block: {key: value}})
    with pytest.raises(UserError, match=rf"trained with {block}\.{key} \d+, but params.yaml says {value};") as error:
        collect(workspace)
    assert "zoo/0000-0001/manifest.json" in str(error.value)


def test_shard_that_lacks_a_seed_is_refused(workspace: Path) -> None:
    path = workspace / "results/mini/zoo/0000-0001/manifest.json"
    tree = json.loads(path.read_text())
    tree["checkpoints"] = [entry for entry in tree["checkpoints"] if entry["seed"] != 1]
    write_sealed(path, tree)
    with pytest.raises(UserError, match="no checkpoint of seed 1"):
        collect(workspace)


@pytest.mark.parametrize("keep", [0, 50, -4])
def test_truncated_checkpoint_is_refused_by_name(workspace: Path, keep: int) -> None:
    path = next((workspace / "results/mini/zoo/0002-0003").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:keep])
    for step in (collect, lambda folder: read_zoo(folder / "results/mini/zoo")):
        with pytest.raises(UserError, match="changed since it was trained") as error:
            step(workspace)
        assert str(path) in str(error.value)
