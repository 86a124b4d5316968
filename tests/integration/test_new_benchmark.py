"""A benchmark is one new folder, one preset with an experiment, one folder of tests: examples/new_benchmark."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkouts import run_in
from conftest import ROOT

pytestmark = pytest.mark.integration
EXAMPLE = ROOT / "examples/new_benchmark"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the example's files, and its blocks in params.yaml."""
    folder = tmp_path_factory.mktemp("new") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    for part in ("rpg", "tests"):
        shutil.copytree(EXAMPLE / part, folder / part, dirs_exist_ok=True)
    params = folder / "params.yaml"
    tree, added = (yaml.safe_load(path.read_text()) for path in (params, EXAMPLE / "params.yaml"))
    for key, blocks in added.items():
        tree[key] |= blocks
    params.write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


def test_nothing_else_is_edited(clone: Path) -> None:
    changed = run_in(clone, "git", "status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(line.split()[1] for line in changed) == [
        "params.yaml",
        "rpg/tasks/moons/__init__.py",
        "rpg/tasks/moons/config.py",
        "rpg/tasks/moons/task.py",
        "tests/unit/tasks/moons/test_task.py",
    ]


def test_its_tests_pass(clone: Path) -> None:
    assert "3 passed" in run_in(clone, sys.executable, "-m", "pytest", "-q", "tests/unit/tasks/moons")


def test_its_miniature_runs_to_a_table(clone: Path) -> None:
    run = ("--config", "run=[moons-mlp]")
    text = run_in(clone, "snakemake", "--cores", "2", *run, "--", "results/tables.md")
    # One line for each job, with its experiment.
    for rule in ("zoo", "tokens", "train", "sample", "score", "novelty"):
        assert len([line for line in text.splitlines() if f"  {rule} " in line and "moons-mlp" in line]) == 1, rule
    table = run_in(clone, sys.executable, "-m", "rpg", "show")
    (row,) = (line.split() for line in table.splitlines() if line.startswith("moons-mlp"))
    originals, samples = float(row[2]), float(row[5])
    assert originals > 93
    assert samples > 0.97 * originals
    assert "scikit-learn's two moons" in (clone / "results/moons-mlp/README.md").read_text()
    assert "Nothing to be done" in run_in(clone, "snakemake", "--cores", "2", *run, "--", "results/tables.md")


def test_the_others_stay_current_and_the_ledger_knows_it(clone: Path) -> None:
    """Its code is no dependency of any other experiment's stages."""
    tree = yaml.safe_load((clone / "params.yaml").read_text())
    (clone / "params.yaml").write_text(yaml.safe_dump({**tree, "run": ["digits-vit", "moons-mlp"]}, sort_keys=False))
    run_in(clone, sys.executable, "-m", "rpg", "ledger", "write")
    stages = yaml.safe_load((clone / "dvc.yaml").read_text())["stages"]
    own = {name for name, stage in stages.items() if "rpg/tasks/moons/task.py" in stage.get("do", stage)["deps"]}
    assert own == {"zoo-moons", "sample-moons", "score-moons", "novelty-moons"}
