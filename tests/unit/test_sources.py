"""Source files of stages, and the digest by which a stopped job knows its code."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MINIATURE

from rpg.sources import check_checkout, code, code_digest, digest_of, joint_code, source_files
from rpg.stages import STAGES
from rpg.tasks.config import TaskConfig
from rpg.tasks.registry import task_blocks
from rpg.utils.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def task() -> TaskConfig:
    return task_blocks()["classification"].model_validate(MINIATURE["task"])


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources, in which the process runs."""
    shutil.copytree(ROOT / "rpg", tmp_path / "rpg", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_another_checkout_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"the code that runs is that of {re.escape(str(ROOT))}, not of this checkout"):
        check_checkout()
    monkeypatch.chdir(ROOT)
    check_checkout()
    monkeypatch.chdir(copy.parent)
    check_checkout()


@pytest.mark.integration
def test_command_in_another_checkout_is_refused_and_the_module_runs_its_code(copy: Path) -> None:
    shutil.copy(ROOT / "params.yaml", copy)
    arguments = ["config", "digits-vit"]
    rpg = [sys.executable, "-c", "from rpg.cli import main; main()", *arguments]
    # The console script does not look for modules in the current folder.
    refused = subprocess.run([*rpg[:1], "-P", *rpg[1:]], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("rpg: error: the code that runs is that of")
    module = subprocess.run([sys.executable, "-m", "rpg", *arguments], capture_output=True, text=True)
    assert module.returncode == 0, module.stderr


def test_digest_is_that_of_the_files_of_a_stage(copy: Path, task: TaskConfig) -> None:
    entries = code("zoo", task)
    digests = {file: digest_of([file]) for file in source_files(entries)}
    assert len(set(digests.values())) == len(digests)
    before = code_digest("zoo", task)
    assert code_digest("zoo", task) == before != code_digest("train", task)


@pytest.mark.parametrize("changed", ["rpg/zoo/shards.py", "rpg/tasks/classification/task.py", "environment.yml"])
def test_one_changed_byte_changes_the_digest(changed: str, copy: Path, task: TaskConfig) -> None:
    before = code_digest("zoo", task)
    text = (copy / changed).read_bytes()
    (copy / changed).write_bytes(text + b"\n")
    assert code_digest("zoo", task) != before
    (copy / changed).write_bytes(text)
    assert code_digest("zoo", task) == before


def test_code_of_others_does_not_count(copy: Path, task: TaskConfig) -> None:
    before = code_digest("zoo", task)
    for other in ("rpg/cli.py", "rpg/tasks/classification/card.py", "rpg/tasks/detection/task.py", "rpg/model/rpg.py"):
        (copy / other).write_text("raise NotImplementedError\n")
    assert code_digest("zoo", task) == before


def test_another_generator_has_code_of_its_own(task: TaskConfig) -> None:
    assert set(STAGES["train"].peer_code) <= set(code("train", task, peer=True))
    assert "rpg/peers" in STAGES["train"].peer_code
    assert "rpg/peers" not in code("train", task)
    assert code_digest("train", task, peer=True) != code_digest("train", task)


def test_joint_training_has_the_code_of_all_its_tasks(task: TaskConfig) -> None:
    assert set(code("tune", task)) <= set(joint_code([task]))
    assert any(file.startswith("rpg/joint") for file in joint_code([task]))
