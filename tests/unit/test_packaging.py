"""pyproject.toml, the hashed locks and environment.yml name the same versions."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
CORE = PROJECT["project"]["dependencies"]
# The extras that `make` installs.
ALL = [*CORE, *(pin for extra in ("pipeline", "vision", "language", "onnx") for pin in EXTRAS[extra])]
LOCKS = {
    **{f"{group}.txt": PROJECT["dependency-groups"][group] for group in ("audit", "build", "docs", "installer")},
    "core.txt": CORE,
    "pipeline.txt": ALL,
    "dev.txt": ALL + PROJECT["dependency-groups"]["dev"],
    "cuda.txt": ALL + EXTRAS["cuda"],
}


def locked(file: str) -> dict[str, str]:
    """Package → version of a lock; every package must have a hash."""
    text = (ROOT / "requirements" / file).read_text().replace("\\\n", " ")
    pins = {}
    for line in text.splitlines():
        name, version, rest = re.fullmatch(r"([a-z0-9.-]+)==([^ ]+)(.*)", line).groups()
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest), f"{file}: {name} has no hash"
        pins[name] = version
    return pins


@pytest.mark.parametrize("file", LOCKS)
def test_lock_holds_what_pyproject_pins(file: str) -> None:
    pins = locked(file)
    for pin in LOCKS[file]:
        name, version = pin.split("==")
        assert pins[name] == version, f"{file}: {name}; run `bash requirements/compile.sh`"


@pytest.mark.parametrize(("file", "within"), [("core", "pipeline"), ("pipeline", "dev"), ("pipeline", "cuda")])
def test_locks_agree_on_shared_packages(file: str, within: str) -> None:
    core, other = locked(f"{file}.txt"), locked(f"{within}.txt")
    assert {name: other[name] for name in core} == core


def test_the_docs_lock_agrees_on_shared_packages() -> None:
    all_of, docs = locked("pipeline.txt"), locked("docs.txt")
    shared = docs.keys() & all_of.keys()
    assert {name: docs[name] for name in shared} == {name: all_of[name] for name in shared}


def test_every_lock_is_held_to_pyproject() -> None:
    assert {path.name for path in (ROOT / "requirements").glob("*.txt")} == LOCKS.keys()


def test_what_is_installed_has_the_hash_that_its_lock_says() -> None:
    installs = {
        file: re.findall(r".*\bpip (?:install|sync)\b.*", (ROOT / file).read_text().replace("\\\n", " "))
        for file in ("Makefile", ".ci/run", "README.md", "requirements/compile.sh")
    }
    # All others say `make`.
    assert [file for file, lines in installs.items() if lines] == ["Makefile"]
    own = [line for line in installs["Makefile"] if "--editable ." in line]
    locked = [line for line in installs["Makefile"] if line not in own]
    # The package itself is what lies here, without what it asks for.
    assert len(own) == 1
    assert "--no-deps --no-build-isolation" in own[0]
    assert all("--require-hashes" in line and "requirements/" in line for line in locked)
    # What comes as source alone is built with packages that have hashes, too.
    assert [line for line in locked if "requirements/dev.txt" in line] == [
        line for line in locked if "--build-constraints requirements/build.txt" in line
    ]


def test_one_opencv_without_a_screen() -> None:
    opencv = {name for file in LOCKS for name in locked(file) if name.startswith("opencv")}
    assert opencv == {"opencv-python-headless"}


def test_core_needs_no_kernels() -> None:
    assert not {name for name in locked("pipeline.txt") if re.match("mamba|causal", name)}


def test_the_core_is_small() -> None:
    """What a packed generator needs, and no pipeline, images or language models."""
    heavy = "snakemake|dvc|pandas|scipy|scikit|matplotlib|onedl|opencv|timm|torchvision|transformers|peft|streamlit"
    assert not {name for name in locked("core.txt") if re.match(heavy, name)}


def test_conda_environment_has_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == sorted(set(ALL))
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    minor = int(python.partition("=3.")[2])
    low, high = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    assert int(low) <= minor < int(high)


def test_no_committed_file_names_a_registry() -> None:
    hosts = re.compile(
        r"https?://[^\s\"']*(" + "py" + r"pi\.|python" + r"hosted\.|npm" + r"js\.)|--(extra-)?index-url|file://"
    )
    for folder in ("requirements", "."):
        for path in Path(ROOT / folder).iterdir():
            if path.is_file() and path.suffix in {".txt", ".toml", ".yml", ".yaml", ".sh", ".md", ""} | {".cff"}:
                assert not hosts.search(path.read_text(errors="replace")), path


def test_makefile_stays_short() -> None:
    assert len((ROOT / "Makefile").read_text().splitlines()) < 60
