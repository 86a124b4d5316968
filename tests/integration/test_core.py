"""The core of the package, in an environment of its own, generates from a packed folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from safetensors.torch import load_file

import rpg
from rpg.cli import main

pytestmark = pytest.mark.integration
UV = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
THREE_LINES = """
from rpg import Generator
generator = Generator.from_pretrained("packed")
state_dict = generator.generate(seed=3)
from safetensors.torch import save_file
save_file(state_dict, "python.safetensors")
"""


def test_the_core_generates_from_a_packed_folder(finished: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    main(["pack", "--experiment", "mini", "--out", str(tmp_path / "packed"), "--no-graph"])
    expected = rpg.generate("mini", seed=3)
    python = tmp_path / "core/bin/python"

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert not done.returncode, done.stderr
        return done.stdout

    run(UV, "venv", "--quiet", "--python", sys.executable, "core")
    run(UV, "pip", "sync", "--quiet", "--python", python, "--require-hashes", ROOT / "requirements/core.txt")
    # A copy, because the build leaves files in the folder.
    source = shutil.copytree(ROOT / "rpg", tmp_path / "source/rpg", ignore=shutil.ignore_patterns("__pycache__")).parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", source)
    shutil.rmtree(source)
    assert not {"pandas", "timm", "snakemake"} & {
        line.partition("==")[0] for line in run(UV, "pip", "freeze", "--python", python).splitlines()
    }
    assert run(python.with_name("rpg"), "generate", "--generator", "packed", "--seed", "3", "--out", "cli.safetensors")
    run(python, "-c", THREE_LINES)
    for file in ("cli.safetensors", "python.safetensors"):
        found = load_file(tmp_path / file)
        assert found.keys() == expected.keys()
        assert all((found[name] == tensor).all() for name, tensor in expected.items())
    # What the core lacks is said in one line.
    lacking = subprocess.run(
        [python.with_name("rpg"), "score", "--generator", "packed", "--weights", "cli.safetensors"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert lacking.returncode == 2
    assert "install rpg-weights[pipeline,vision,language,onnx]" in lacking.stderr
    assert lacking.stderr.count("\n") == 1
