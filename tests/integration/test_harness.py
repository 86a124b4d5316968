"""lm-evaluation-harness, in an environment of its own, on what `rpg export` writes: its `acc` is our score."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from rpg.cli import main

pytestmark = [pytest.mark.integration, pytest.mark.long]
HARNESS = "lm-eval==0.4.13"


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the harness, which sees this environment's packages, torch and peft among them."""
    folder = tmp_path_factory.mktemp("harness") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([folder / "bin/pip", "install", "--quiet", HARNESS], check=True)
    return folder


def test_acc_is_our_score(harness: Path, adapters: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(adapters)
    main(["export", "--experiment", "adapters", "--out", str(tmp_path / "tasks")])
    command = shlex.split(capsys.readouterr().out)
    assert command[0] == "lm_eval"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    rest = [*command[1:], "--device", "cpu", "--output_path", str(tmp_path / "out")]
    subprocess.run([harness / "bin/lm_eval", *rest], check=True, env=offline)
    (file,) = (tmp_path / "out").rglob("results*.json")
    found = {name: 100 * of["acc,none"] for name, of in json.loads(file.read_text())["results"].items()}
    scores = json.loads(Path("results/adapters/scores.json").read_text())
    ours = next(of["others"] for of in scores["rpg"] if re.search(r"\b0000\b", of["file"]))
    assert found == pytest.approx(
        {"rpg_boolq": ours["BoolQ (likelihood)"], "rpg_social_i_qa": ours["SIQA (likelihood)"]}
    )
