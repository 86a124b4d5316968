"""Two processes train as one does, on a CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, write_params
from safetensors.torch import load_file
from together import HALF, MORE, QUICK, STEPS, run, start, steps

from rpg.training.distributed import ALONE

# Moments of 8 bits differ where a last bit of the gradient moves one over a border.
LOSSES = {"8-bit": 1e-3, "8-bit-sharded": 1e-3}


def train_both(folder: Path, finished: Path, names: Sequence[str]) -> None:
    """In `folder`, each case of `together` in one process and in two, half of the steps gone on with by the other."""
    shutil.copy(finished / "params.yaml", folder)
    (folder / "results/mini").mkdir(parents=True)
    (folder / "results/mini/tokens").symlink_to(finished / "results/mini/tokens")
    for name in names:
        training = start(folder, name)
        steps(training, HALF)
        training.save(folder / f"{name}-one.safetensors", name)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, ROOT / "tests/together.py", folder, *names], check=True, env=environment)
    run(folder, names, ALONE, "two", "one")


def losses(folder: Path, name: str, which: str, key: str) -> torch.Tensor:
    return torch.tensor(json.loads((folder / f"{name}-{which}.json").read_text())[key])


def check(folder: Path, name: str) -> None:
    """Losses and weights of two processes are those of one, also where the other went on."""
    one, two = (losses(folder, name, which, "losses") for which in ("one", "two"))
    assert len(one) == STEPS
    rtol = LOSSES.get(name, 1e-5)
    torch.testing.assert_close(two, one, rtol=rtol, atol=0)
    for which in ("one", "two"):
        torch.testing.assert_close(losses(folder, name, which, "after"), one[HALF:], rtol=rtol, atol=0)
    for kind, ending in (("weights", ".weights"), ("state", ".safetensors")):
        of_one, of_two = (load_file(folder / f"{name}-{which}{ending}") for which in ("one", "two"))
        assert {key: tensor.shape for key, tensor in of_one.items() if key != "facts"} == {
            key: tensor.shape for key, tensor in of_two.items() if key != "facts"
        }, kind
        # Before BatchNorm a bias has no gradient but rounding, of which Adam makes whole steps.
        free = re.compile(r"denoiser\..*(0\.bias|running_mean)")
        for key in (key for key in of_one if kind == "weights" and not free.fullmatch(key)):
            difference = (of_two[key].double() - of_one[key].double()).norm()
            assert difference <= (1e-2 if name in LOSSES else 1e-3) * of_one[key].double().norm(), (name, key)


@pytest.mark.integration
def test_two_processes_train_as_one_does(finished: Path, tmp_path: Path) -> None:
    """Both architectures, whole and sharded."""
    train_both(tmp_path, finished, list(QUICK))
    for name in QUICK:
        check(tmp_path, name)


@pytest.mark.long
def test_two_processes_train_as_one_does_in_every_case(finished: Path, tmp_path: Path) -> None:
    train_both(tmp_path, finished, list(MORE))
    for name in MORE:
        check(tmp_path, name)


@pytest.mark.integration
def test_command_with_two_processes(finished: Path, tmp_path: Path) -> None:
    def rpg(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "rpg", "train", "--experiment", "mini", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    write_params(tmp_path)
    (tmp_path / "results/mini").mkdir(parents=True)
    (tmp_path / "results/mini/tokens").symlink_to(finished / "results/mini/tokens")
    done = rpg("--processes", "2")
    assert done.returncode == 0, done.stderr
    # One of the two tells how far they are, and nothing else is said.
    told = [line.partition(", loss ")[0] for line in done.stderr.splitlines()]
    assert told == [f"train: {count} of 40" for count in range(4, 41, 4)]
    one, two = (pd.read_csv(folder / "results/mini/rpg/log.csv") for folder in (finished, tmp_path))
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)
    # A batch has three checkpoints, so there are three processes of those that are asked for.
    done = rpg("--processes", "4")
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(one, pd.read_csv(tmp_path / "results/mini/rpg/log.csv"), rtol=1e-5)
