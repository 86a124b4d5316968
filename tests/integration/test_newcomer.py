"""What a newcomer does, in minutes: a clean clone, `make tables` in it, and the promises that hold on any processor.

The run is reduced by tests/reduced.yaml. tests/slow/test_readme.py has the whole run and every other command of the
README and of the guides.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, run_layers
from promises import REDUCED

from benchmarks.robustness import apply_changes
from rpg.config.presets import resolve
from rpg.reports.promises import broken_promises
from rpg.utils.files import (
    file_entry,
    read_sealed,
    read_tensors,
    write_sealed,
    write_tensors,
)

pytestmark = pytest.mark.integration
OUTER = {"VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
CHANGES = yaml.safe_load((ROOT / "tests/reduced.yaml").read_text())


def make(folder: Path, target: str) -> None:
    """`make` as in a new shell: without the environment of the tests, or of the `make` that started them.

    Its output goes to the terminal.
    """
    environment = {key: value for key, value in os.environ.items() if key not in OUTER}
    environment["PATH"] = os.pathsep.join(
        entry for entry in os.environ["PATH"].split(os.pathsep) if not Path(entry).is_relative_to(ROOT)
    )
    subprocess.run(["make", target], cwd=folder, env=environment, check=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit, with fewer steps in params.yaml, in which `make tables` has run."""
    folder = tmp_path_factory.mktemp("newcomer") / "a clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    params = folder / "params.yaml"
    tree = resolve(yaml.safe_load(params.read_text()), params)
    apply_changes(tree, CHANGES)
    params.write_text(yaml.safe_dump({**tree, "run": list(CHANGES)}, sort_keys=False))
    print(f"\n`make tables` of a reduced run, tests/reduced.yaml: {', '.join(CHANGES)}", flush=True)
    make(folder, "tables")
    return folder


def metrics(folder: Path) -> dict:
    return json.loads((folder / "results/metrics.json").read_text())


def test_tables_keep_the_promises(clone: Path) -> None:
    made = metrics(clone)
    assert made["experiments"].keys() == CHANGES.keys()
    assert broken_promises(made["experiments"], REDUCED) == []
    tables = (clone / "results/tables.md").read_text()
    assert all(f"| {name} " in tables for name in CHANGES)


def test_a_second_run_has_nothing_to_do(clone: Path) -> None:
    command = [clone / ".venv/bin/snakemake", "--cores", "1", "--dry-run", "results/tables.md"]
    told = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in told.stdout + told.stderr


@pytest.mark.parametrize("name", CHANGES)
def test_a_spoiled_model_breaks_the_promises(clone: Path, tmp_path: Path, name: str) -> None:
    """A model with half of its answer scrambled breaks a bound of its experiment."""
    for path in ("params.yaml", "workflow"):
        (tmp_path / path).symlink_to(clone / path)
    shutil.copytree(clone / "results", tmp_path / "results")
    folder = tmp_path / "results" / name
    spoil(folder / "tune" if (folder / "tune").is_dir() else folder / "rpg")
    run_layers(tmp_path, "sample", "score", experiment=name)
    entry = json.loads((folder / "test.json").read_text())
    broken = broken_promises({name: entry}, REDUCED)
    assert {"rpg", "seen"} & {one.measure for one in broken}, broken


def spoil(trained: Path) -> None:
    """Exchange half of the rows of the denoiser's skip layer, and write the file's new hash into config.json.

    A model that starts from the zoo's mean learns next to nothing more, so there the rows of the mean are exchanged.
    """
    weights, config = trained / "model.safetensors", trained / "config.json"
    tree = read_sealed(config, "rpg train")
    tensors = read_tensors(weights)
    answer = tensors["mean"].flatten(0, 1) if "mean" in tensors else tensors["denoiser.skip.weight"]
    rows = torch.arange(0, len(answer), 2)
    answer[rows] = answer[rows.flip(0)]
    write_tensors(weights, tensors)
    files = [file_entry(weights) if entry["file"] == weights.name else entry for entry in tree["files"]]
    write_sealed(config, {**tree, "files": files})
