"""What zoo and base networks are read by: files are those that their manifest lists."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.utils.errors import UserError
from rpg.utils.files import sha256
from rpg.zoo.manifest import fingerprint, read_base


@pytest.fixture
def experiment(tasks: Path) -> Experiment:
    return load_params(tasks / "params.yaml").experiment("tasks")


def test_each_seed_of_the_zoo_has_its_own(tasks: Path, experiment: Experiment) -> None:
    folder = tasks / "results/tasks/base"
    for seed, own in ((0, 5), (1, 6)):
        weights = read_base(experiment, folder, seed)
        assert all(
            torch.equal(weights[name], tensor) for name, tensor in load_file(folder / f"000{own}.safetensors").items()
        )
    assert read_base(experiment.model_copy(update={"base": None}), folder, 0) is None
    assert fingerprint(experiment, folder) == sha256(folder / "manifest.json")


def test_changed_base_is_refused(tasks: Path, experiment: Experiment, tmp_path: Path) -> None:
    for name in ("manifest.json", "0005.safetensors", "0006.safetensors"):
        (tmp_path / name).write_bytes((tasks / "results/tasks/base" / name).read_bytes())
    (tmp_path / "0006.safetensors").write_bytes((tmp_path / "0005.safetensors").read_bytes())
    read_base(experiment, tmp_path, 0)
    with pytest.raises(UserError, match=r"0006\.safetensors: missing or changed"):
        read_base(experiment, tmp_path, 1)
