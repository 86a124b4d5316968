"""The whole main job in a clean clone, every command of the README and of the guides, and the promises made there.

The clone gets a .venv of its own from `make`; uv's cache makes that quick where the packages were installed before.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from promises import counts

from rpg.reports.promises import PROMISES, broken_promises

pytestmark = pytest.mark.long
# Pages whose `bash` blocks run after the README's, in this order. Blocks marked `sh` are not run.
GUIDES = ("docs/start/generate.md", "docs/start/run.md", "docs/guides/dvc.md")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a language on a page of the repository."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


def bash(command: str, folder: Path, *, activate: bool = True) -> str:
    """Output of a command in `folder`, with its .venv active; it must succeed."""
    script = f"source .venv/bin/activate\n{command}" if activate else command
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Without the outer environment's activation, as in a new shell.
        env={key: value for key, value in __import__("os").environ.items() if key != "VIRTUAL_ENV"},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit in which `make tables` has run."""
    folder = tmp_path_factory.mktemp("newcomer") / "a clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    bash("make tables", folder, activate=False)
    return folder


def test_second_run_has_nothing_to_do(clone: Path) -> None:
    assert "Nothing to be done" in bash("make tables", clone, activate=False)


def test_tables_are_as_good_as_promised(clone: Path) -> None:
    made, committed = (json.loads((folder / "results/metrics.json").read_text()) for folder in (clone, ROOT))
    assert counts(made) == counts(committed)
    assert broken_promises(made["experiments"], PROMISES) == []


def test_readme_s_other_commands_run(clone: Path) -> None:
    """Every bash block but the two `make` commands, then the guides', then the Python blocks and their scores."""
    first, *rest = blocks("README.md", "bash")
    assert "make tables" in first
    rest += [block for page in GUIDES for block in blocks(page, "bash")]
    # The zoo of one's own has a clone of its own.
    outputs = [bash(IDENTITY + block, clone) for block in rest if "own_zoo" not in block]
    pushed = next(output for output in outputs if "the remote has them" in output)
    assert re.search(r"^tables +current$", pushed, re.M)
    # The key stands in params.yaml and in the resolved configuration, which DVC tracks.
    assert "sample.steps" in next(output for output in outputs if "one-step" in output)
    assert bash("git status --short params.yaml dvc.yaml", clone) == ""
    assert "Nothing to be done" in bash("make tables", clone, activate=False)
    assert (clone / "results/report.html").stat().st_size > 100_000
    score = float(re.search(r"w\.safetensors: top1 ([\d.]+)", outputs[0]).group(1))
    (clone / "use.py").write_text(blocks("README.md", "python")[0] + MEASURE)
    measured = float(bash("python use.py", clone))
    assert measured == pytest.approx(score, abs=0.01)
    # A network for {3, 8}, from the command line and from Python.
    assert float(re.search(r"eights\.safetensors: top1 ([\d.]+)", "".join(outputs)).group(1)) > 90
    (clone / "ask.py").write_text(blocks("README.md", "python")[1])
    bash("python ask.py", clone)
    (clone / "adapt.py").write_text(blocks("docs/start/generate.md", "python")[0] + ASK)
    scored = json.loads((clone / "results/facts-dora-r4/scores.json").read_text())["rpg"][0]
    accuracy = float(bash("python adapt.py", clone).split()[-1])
    assert accuracy == pytest.approx(scored["others"]["WinoGrande"])
    assert accuracy > 60
    entry = json.loads((clone / "results/metrics.json").read_text())["experiments"]["digits-vit"]["rpg"]
    assert entry["min"] <= score <= entry["best"]


# `dvc exp run` commits; a bare machine may know no one.
IDENTITY = "export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t\n"
# What the published evaluation does, with peft and transformers alone.
ASK = """
import json
import re
rows = json.load(open("results/facts/dataset/winogrande/test.json"))
right = 0
for row in rows:
    prompt = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request. \\n\\n"
        f"                ### Instruction:\\n                {row['instruction']}\\n\\n"
        "                ### Response:\\n                "
    )
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=3, do_sample=False
    )
    named = re.findall("option1|option2", tokenizer.decode(output[0, inputs["input_ids"].shape[1]:]))
    right += named[:1] == [row["answer"]]
print(100 * right / len(rows))
"""
MEASURE = """
import torch
from rpg.data.digits import load_digits_images
data = load_digits_images()
with torch.no_grad():
    found = network.eval()(data.inputs(data.test.images, 8)).argmax(1)
print(100 * (found == data.test.labels).double().mean().item())
"""


def test_own_zoo_from_a_clean_clone(tmp_path: Path) -> None:
    """Thirty checkpoints of plain PyTorch's, and networks like them, by the README's commands alone."""
    folder = tmp_path / "a clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (commands,) = [block for block in blocks("README.md", "bash") if "own_zoo" in block]
    # The installation that runs the tests, with the clone's code.
    here = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={shlex.quote(str(folder))}\n"
    printed = bash(here + commands, folder, activate=False)
    assert len(list((folder / "examples/own_zoo/checkpoints").rglob("*.pth"))) == 30
    metrics = json.loads((folder / "results/my-zoo/test.json").read_text())
    assert (metrics["original"]["n"], metrics["rpg"]["n"]) == (30, 10)
    assert metrics["rpg"]["mean"] >= 0.97 * metrics["original"]["mean"]
    assert metrics["rpg"]["min"] >= 0.95 * metrics["original"]["mean"]
    score = float(re.search(r"mine\.safetensors: accuracy ([\d.]+)", printed).group(1))
    (use,) = blocks("docs/guides/own-zoo.md", "python")
    (folder / "use.py").write_text(use)
    assert 100 * float(re.search(r"0\.\d+", bash(f"{here}python use.py", folder, activate=False)).group()) == (
        pytest.approx(score, abs=0.01)
    )
    (snakemake,) = [line for line in commands.splitlines() if line.startswith("snakemake")]
    assert "Nothing to be done" in bash(here + snakemake, folder, activate=False)
    assert bash("git status --short --untracked-files=no", folder, activate=False) == " M params.yaml\n"


def test_a_second_run_from_scratch_writes_the_same_bytes(clone: Path) -> None:
    """Against the first run in the clone, every artifact of one whole experiment, zoo to novelty.

    What other tasks train gives the same bytes twice in their own tests.
    """
    name, kept = "digits-vit", clone.parent / "first"
    shutil.move(clone / "results" / name, kept)
    bash(f"snakemake --cores all results/{name}/scores.json results/{name}/novelty.json", clone)
    again = clone / "results" / name
    # The card comes with the tables.
    (kept / "README.md").unlink()
    names = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    # Zoo, tokens, RPG and RPG tuned, samples of both, scores, answers, novelty, seconds.
    assert len(names) == 40 + 1 + 1 + 3 + 3 + 3 + (20 + 20) + (8 + 20) + 1 + 1 + 2 + 2 + 3
    for path in names:
        if path.parts[0] != "seconds":
            assert (again / path).read_bytes() == (kept / path).read_bytes(), path
