"""The rules: what they run, what they depend on, and that the tools of CI like them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, write_params

RULES = ("zoo", "collect", "tokens", "train", "sample", "score", "tables")


def snakemake(folder: Path, *options: str) -> str:
    """Standard output and error of `snakemake` in `folder`; it must succeed."""
    done = subprocess.run(["snakemake", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(folder: Path, *options: str) -> dict[str, int]:
    """Rule → number of jobs of a dry run."""
    text = snakemake(folder, "--dry-run", *options, "--", "results/tables.md")
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.M) if rule in RULES}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The workflow with the miniature experiment in place of the shipped ones."""
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow")
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "profiles").symlink_to("workflow/profiles")
    write_params(tmp_path)
    return tmp_path


def test_dry_run_is_complete_from_nothing(checkout: Path) -> None:
    assert planned(checkout) == {"zoo": 2, "tokens": 1, "train": 1, "sample": 1, "score": 1, "tables": 1}


def test_run_then_nothing_to_do_then_only_what_a_key_reaches(checkout: Path, finished: Path) -> None:
    """The whole miniature through Snakemake; then one changed key of each block, and what it makes stale."""
    snakemake(checkout, "--cores", "2", "results/tables.md")
    names = sorted(path.relative_to(finished) for path in (finished / "results").rglob("*") if path.is_file())
    assert len(names) == 26
    for name in names:
        if "seconds" not in str(name):
            # The same bytes as the plain commands, which `finished` ran.
            assert (checkout / name).read_bytes() == (finished / name).read_bytes(), name
    assert "Nothing to be done" in snakemake(checkout, "--cores", "2", "results/tables.md")
    reached = {
        ("sample", "steps", 4): {"sample", "score", "tables"},
        ("train", "steps", 50): {"train", "sample", "score", "tables"},
        ("diffusion", "target", "v"): {"train", "sample", "score", "tables"},
        ("model", "hidden", 48): {"train", "sample", "score", "tables"},
        ("tokens", "width", 32): {"tokens", "train", "sample", "score", "tables"},
        ("zoo", "weight_decay", 0.0): set(RULES),
        ("task", "resolution", 9): set(RULES),
    }
    for (block, key, value), rules in reached.items():
        write_params(checkout, **{block: {key: value}})
        assert set(planned(checkout)) == rules, (block, key)
    write_params(checkout)
    assert planned(checkout) == {}

    # One more seed in a shard of its own trains that shard alone.
    write_params(checkout, zoo={"seeds": [0, 1, 2, 4]})
    assert planned(checkout) == {"zoo": 1, "tokens": 1, "train": 1, "sample": 1, "score": 1, "tables": 1}


def test_tables_from_git_do_not_hide_that_nothing_was_run(checkout: Path, finished: Path) -> None:
    """As in a fresh clone: tables newer than everything, no artifacts, no records of Snakemake's."""
    (checkout / "results").mkdir()
    for name in ("tables.md", "metrics.json", "seconds.json", "seconds.md"):
        shutil.copy(finished / "results" / name, checkout / "results")
    assert planned(checkout) == {"zoo": 2, "tokens": 1, "train": 1, "sample": 1, "score": 1, "tables": 1}


def test_fault_in_a_layer_shows_in_the_output(checkout: Path) -> None:
    write_params(checkout, train={"learning_rate": 1e30, "gradient_clip": 1e30, "warmup": 0.0})
    done = subprocess.run(
        ["snakemake", "--cores", "2", "results/tables.md"], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "lower train.learning_rate" in done.stdout + done.stderr


def test_fault_in_params_is_one_line_of_snakemake(checkout: Path) -> None:
    tree = yaml.safe_load((checkout / "params.yaml").read_text())
    tree["experiments"]["mini"]["train"]["stesp"] = 1
    (checkout / "params.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(["snakemake", "-n"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode != 0
    assert "params.yaml: experiments.mini.train.stesp: unknown key" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_rules_call_one_command_and_say_what_they_need() -> None:
    for rule in RULES:
        text = (ROOT / f"workflow/rules/{rule}.smk").read_text()
        assert re.findall(r"python -m rpg (\w+)", text) == [rule]
        for directive in ("output:", "params:", "log:", "benchmark:", "threads:", "mem_mb=", "runtime=", "shell:"):
            assert directive in text, (rule, directive)
        for forbidden in ("lambda", "    run:", "script:", "def "):
            assert forbidden not in text, (rule, forbidden)
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 40


def test_shipped_experiments_plan_every_layer() -> None:
    text = snakemake(ROOT, "--dry-run", "--forceall", "--", "results/tables.md")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, re.M))
    assert {rule: counts[rule] for rule in RULES} == {
        "zoo": "6", "tokens": "3", "train": "3", "sample": "3", "score": "3", "tables": "1",
    }  # fmt: skip


def test_committed_json_is_json() -> None:
    for name in ("results/metrics.json", "results/seconds.json", "workflow/schemas/params.schema.json"):
        json.loads((ROOT / name).read_text())
