import json
from pathlib import Path

from conftest import run_layers, write_params
from safetensors.torch import load_file

from rpg.files import sha256
from rpg.params import load_params
from rpg.zoo import train_shard


def test_manifest_lists_every_seed_and_save(finished: Path) -> None:
    found = []
    for shard, seeds in {"0000-0001": [0, 1], "0002-0003": [2]}.items():
        folder = finished / "results/mini/zoo" / shard
        manifest = json.loads((folder / "manifest.json").read_text())
        assert {checkpoint["seed"] for checkpoint in manifest["checkpoints"]} == set(seeds)
        for checkpoint in manifest["checkpoints"]:
            assert checkpoint["file"] == f"{checkpoint['seed']:04d}-{checkpoint['step']:06d}.safetensors"
            assert checkpoint["sha256"] == sha256(folder / checkpoint["file"])
            assert 0 <= checkpoint["validation_top1"] <= 100
            found.append((checkpoint["seed"], checkpoint["step"]))
            assert set(manifest["tensors"]) == set(load_file(folder / checkpoint["file"]))
        assert {path.name for path in folder.iterdir()} == {
            "manifest.json",
            *(checkpoint["file"] for checkpoint in manifest["checkpoints"]),
        }
    assert found == [(0, 42), (0, 44), (1, 42), (1, 44), (2, 42), (2, 44)]


def test_a_seed_s_networks_do_not_depend_on_its_shard(finished: Path, tmp_path: Path) -> None:
    experiment = load_params(finished / "params.yaml").experiment("mini")
    alone = [run for run in experiment.runs().values() if run.seed == 1]
    train_shard(experiment, alone, tmp_path / "alone", tmp_path / "base", None)
    for path in (tmp_path / "alone").glob("*.safetensors"):
        assert path.read_bytes() == (finished / "results/mini/zoo/0000-0001" / path.name).read_bytes()


def test_files_of_a_dropped_seed_are_removed(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results/mini/zoo/0000-0001"
    folder.mkdir(parents=True)
    (folder / "0001-000042.safetensors").write_bytes(b"of an older choice")
    write_params(tmp_path, zoo={"seeds": [0]})
    run_layers(tmp_path, "zoo")
    assert sorted(path.name for path in folder.iterdir()) == [
        "0000-000042.safetensors",
        "0000-000044.safetensors",
        "manifest.json",
    ]
