"""Checkpoints that were trained elsewhere, params.yaml as `rpg init` finds it, and what it prints."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import MINIATURE, ROOT, SETTINGS, THEIRS, run_layers
from torch import Tensor, nn

from rpg.cli import main
from rpg.init.command import init
from rpg.init.request import InitRequest
from rpg.init.survey import Survey, survey
from rpg.tasks.custom.config import CustomTask, GivenZoo
from rpg.tasks.custom.task import Custom

LAYERS = ("zoo", "collect", "tokens", "train", "sample", "score", "novelty")


def write_presets(folder: Path) -> str:
    """params.yaml with the presets of the repository and one experiment; return its text."""
    presets = yaml.safe_load((ROOT / "params.yaml").read_text())["presets"]
    tree = {**SETTINGS, "run": ["mini"], "presets": presets, "experiments": {"mini": MINIATURE}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return (folder / "params.yaml").read_text()


def write_functions(folder: Path) -> None:
    """The module `mine` with the functions of `conftest.THEIRS`, and the points that they need."""
    points = (
        "def points(split):\n    draw = torch.Generator().manual_seed(len(split))\n"
        "    inputs = torch.randn(60, 4, generator=draw)\n    return inputs, inputs[:, :3].argmax(1)\n"
    )
    (folder / "mine.py").write_text(THEIRS.replace("from theirs.data import points\n", points))


def network() -> nn.Sequential:
    """The network of `conftest.THEIRS`: 99 weights and a counter."""
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def state(run: int, epoch: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A checkpoint of `network`: those of a run are alike, and those of two runs are not."""
    first, then = torch.Generator().manual_seed(run), torch.Generator().manual_seed(1000 * run + epoch)
    tree: dict[str, Tensor] = {}
    for name, tensor in network().state_dict().items():
        drawn = torch.randn(tensor.shape, generator=first) + 0.05 * torch.randn(tensor.shape, generator=then)
        drawn = drawn.abs() + 0.1 if name.endswith("running_var") else drawn
        tree[name] = drawn.to(dtype) if tensor.is_floating_point() else torch.tensor(epoch)
    return tree


def save(path: str, tree: Any) -> None:
    """Write by torch.save, in a new folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(tree, path)


def write_runs(pattern: str = "zoo/{}/{}.pth", dtype: torch.dtype = torch.float32, runs: int = 2) -> None:
    """Two checkpoints of each run, at the paths that the pattern gives for run and epoch."""
    for run in range(runs):
        for epoch in (1, 2):
            save(pattern.format(run, epoch), state(run, epoch, dtype))


def told(*patterns: str, **options: Any) -> list[str]:
    """The lines of `rpg init new` for checkpoints of these patterns."""
    return list(init(InitRequest("new", patterns, **options)))


def fault(capsys: Any, *words: str) -> str:
    """The one line with which `rpg init new` refuses; it leaves params.yaml and zoos/ as they were."""
    before = Path("params.yaml").read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["init", "new", *words])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rpg: error: ")
    assert Path("params.yaml").read_bytes() == before
    assert not Path("zoos").exists()
    return line.removeprefix("rpg: error: ")


def written(name: str = "new") -> dict[str, Any]:
    """The experiment as params.yaml has it."""
    experiment: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())["experiments"][name]
    return experiment


def run_all(name: str = "new") -> Path:
    """Run the stages of an experiment with few steps and few samples; return its folder of results."""
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree["experiments"][name] |= {
        "train": {"steps": 12},
        "sample": {"count": 3, "steps": 2},
        "novelty": {"networks": 2, "noise": [0.1]},
    }
    Path("params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    run_layers(Path(), *LAYERS, experiment=name)
    return Path("results", name)


# The files that Ray Tune 2.60.0 wrote for a trial of two reports, with other values for the machine and the time. It
# names the folder of a trial by the parameters that differ, and the folder of a checkpoint by its number.
RAY_TRIAL = "zoo/tune/report_1d383_0000{0}_{0}_act={1},rate={2:.4f}_2000-01-01_00-00-00"
RAY_PARAMS = '{{\n  "act": "{1}",\n  "optimizer": {{\n    "name": "adamw",\n    "rate": {2}\n  }}\n}}'
RAY_PROGRESS = """loss,timestamp,checkpoint_dir_name,should_checkpoint,done,training_iteration,trial_id,date,\
time_this_iter_s,time_total_s,pid,hostname,node_ip,time_since_restore,iterations_since_restore
{3},946684800,checkpoint_000000,True,False,1,1d383_0000{0},2000-01-01_00-00-00,0.5,0.5,1,host,0.0.0.0,0.5,1
{4},946684800,checkpoint_000001,True,False,2,1d383_0000{0},2000-01-01_00-00-00,0.5,1.0,1,host,0.0.0.0,1.0,2
"""


def write_ray() -> None:
    """Four trials of Ray Tune, each with two checkpoints: an activation and a learning rate differ."""
    for trial in range(4):
        rate = (0.1, 0.2)[trial // 2]
        values = (trial, ("relu", "tanh")[trial % 2], rate, rate, rate / 2)
        folder = Path(RAY_TRIAL.format(*values))
        folder.mkdir(parents=True)
        (folder / "params.json").write_text(RAY_PARAMS.format(*values))
        (folder / "progress.csv").write_text(RAY_PROGRESS.format(*values))
        for epoch in (0, 1):
            save(f"{folder}/checkpoint_00000{epoch}/model.pt", state(trial, epoch))


def surveyed(*runs: str, task: dict[str, str] | None = None) -> Survey:
    block = CustomTask.model_validate({"kind": "custom", **(task or {})})
    return survey(Custom(block), GivenZoo(runs=list(runs), runs_per_shard=1))
