from pathlib import Path

import pytest
import torch
from conftest import TASKS
from safetensors.torch import load_file

from rpg.config.experiment import Experiment, parse_experiment
from rpg.config.loading import load_params
from rpg.utils.errors import UserError
from rpg.utils.files import sha256
from rpg.zoo.base import train_base
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


def test_one_for_all_seeds(tmp_path: Path) -> None:
    experiment = parse_experiment({**TASKS, "base": {**TASKS["base"], "seeds": [5], "steps": 3}})
    train_base(experiment, tmp_path, None)
    first, second = (read_base(experiment, tmp_path, seed) for seed in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_tells_the_classes_apart(tasks: Path, experiment: Experiment) -> None:
    from rpg.tasks.loading import load_task

    task = load_task(experiment.task, None)
    network = task.build(num_classes=10).eval()
    network.load_state_dict(load_file(tasks / "results/tasks/base/0005.safetensors"))
    with torch.no_grad():
        found = network(task.inputs("train")).argmax(1)
    # Guessing has 0.10; three seeds have 0.27 to 0.35.
    assert (found == task.data.train.labels).double().mean() > 0.18


def test_changed_base_is_refused(tasks: Path, experiment: Experiment, tmp_path: Path) -> None:
    for name in ("manifest.json", "0005.safetensors", "0006.safetensors"):
        (tmp_path / name).write_bytes((tasks / "results/tasks/base" / name).read_bytes())
    (tmp_path / "0006.safetensors").write_bytes((tmp_path / "0005.safetensors").read_bytes())
    read_base(experiment, tmp_path, 0)
    with pytest.raises(UserError, match=r"0006\.safetensors: missing or changed"):
        read_base(experiment, tmp_path, 1)
