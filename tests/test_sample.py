import json
from pathlib import Path

import timm
import torch
from conftest import MINIATURE
from safetensors.torch import load_file

from rpg.cli import main
from rpg.files import sha256

NETWORK = MINIATURE["task"]["network"]


def test_samples_load_as_they_are_and_spread_over_the_states(finished: Path) -> None:
    folder = finished / "results/mini/samples"
    manifest = json.loads((folder / "manifest.json").read_text())["samples"]
    assert [sample["state"] for sample in manifest] == [0, 1, 2, 0]
    for sample in manifest:
        path = folder / sample["file"]
        assert sha256(path) == sample["sha256"]
        network = timm.create_model(NETWORK["name"], **NETWORK["arguments"])
        network.load_state_dict(load_file(path))
        assert torch.isfinite(network.eval()(torch.zeros(1, 1, 8, 8))).all()
        # Counters are copied through from the last checkpoint of the state's seed.
        assert int(network.bn1.num_batches_tracked) == 44


def test_one_sample_to_a_file(finished: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(finished)

    def sample(name: str, *options: str) -> bytes:
        main(["sample", "--experiment", "mini", "--out", str(tmp_path / name), *options])
        return (tmp_path / name).read_bytes()

    assert sample("a.safetensors", "--state", "1", "--seed", "7") == sample(
        "b.safetensors", "--state", "1", "--seed", "7"
    )
    assert sample("c.safetensors", "--state", "1", "--seed", "8") != sample(
        "a.safetensors", "--state", "1", "--seed", "7"
    )
    assert sample("d.safetensors", "--state", "2", "--seed", "7") != sample(
        "a.safetensors", "--state", "1", "--seed", "7"
    )
    # By default the first of the layer's own samples.
    assert sample("e.safetensors") == (finished / "results/mini/samples/0000.safetensors").read_bytes()
