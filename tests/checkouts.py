"""Checkouts of the workflow with the miniature experiment in place of the shipped ones, and the tools run in them."""

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT, write_params

from benchmarks.common import copy_workflow
from rpg.stages import OPTIONAL, STAGES, covered_by

# The rules of an experiment without optional stages, as the miniature is.
RULES = (*(stage for stage in STAGES if stage not in OPTIONAL), "tables")
# The rules that no table needs, unless `run` names an ablation.
OTHER_RULES = ("ablation", "ablations", "joint", "peers", "report")
# One key of each block → the rules below it. Read top down, this is the order of the stages.
REACHED = {
    ("task", "resolution", 9): RULES,
    ("zoo", "weight_decay", 0.0): RULES,
    ("tokens", "width", 32): RULES[2:],
    ("model", "start", "mean"): RULES[3:],
    ("diffusion", "target", "v"): RULES[3:],
    ("train", "steps", 50): RULES[3:],
    ("sample", "steps", 4): RULES[4:],
    ("novelty", "networks", 5): RULES[6:],
}


def make_checkout(folder: Path) -> Path:
    """What a clone holds of the workflow, without git, and the miniature's params.yaml."""
    copy_workflow(folder)
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    write_params(folder)
    return folder


def run_in(folder: Path, *command: str, ok: bool = True) -> str:
    """Standard output and error of a command in `folder`; it must succeed, or fail if not `ok`."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def snakemake(folder: Path, *options: str) -> str:
    return run_in(folder, "snakemake", *options)


@dataclass
class Job:
    """A job of a dry run."""

    rule: str
    reads: list[str]
    writes: list[str]

    @property
    def experiment(self) -> str:
        """Whose it is; empty for the tables."""
        parts = Path(self.writes[0]).parts
        return parts[1] if len(parts) > 2 else ""


def jobs(folder: Path, *options: str) -> list[Job]:
    """What a dry run up to the tables would do; with `--forceall`, every job there is."""
    text = snakemake(folder, "--dry-run", *options, "--", "results/tables.md")
    blocks = re.findall(r"^(?:local)?rule (\w+):\n    input: (.*)\n    output: (.*)\n", text, re.M)
    return [Job(rule, reads.split(", "), writes.split(", ")) for rule, reads, writes in blocks]


def planned(folder: Path, *options: str) -> dict[str, int]:
    """Rule → number of jobs of a dry run."""
    return dict(Counter(job.rule for job in jobs(folder, *options)))


def ledger(folder: Path, *arguments: str, ok: bool = True) -> str:
    return run_in(folder, "python", "-m", "rpg", "ledger", *arguments, ok=ok)


def commit(folder: Path) -> None:
    """Commit everything that git does not ignore."""
    run_in(folder, "git", "add", "--all")
    run_in(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", "x")


def make_repository(folder: Path) -> Path:
    """`make_checkout` as a git repository with DVC set up as in this one and dvc.yaml written; nothing has run."""
    folder.mkdir(parents=True, exist_ok=True)
    make_checkout(folder)
    run_in(folder, "git", "init", "--quiet")
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc")
    ledger(folder, "write")
    commit(folder)
    return folder


def clone(folder: Path, to: Path) -> Path:
    run_in(folder.parent, "git", "clone", "--quiet", str(folder), str(to))
    return to


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml, with foreach resolved, as `zoo@mini`; paths without options, `committed` those in git."""
    tree = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    found = {}
    for name, stage in tree.items():
        text = yaml.safe_dump(stage.get("do", stage))
        for item in stage.get("foreach", [None]):
            resolved = yaml.safe_load(text.replace("${item}", str(item)))
            resolved["params"] = [key for entry in resolved.get("params", []) for key in _keys(entry)]
            outs = [*resolved["outs"], *resolved.pop("metrics", [])]
            resolved["committed"] = [
                path
                for out in outs
                if not isinstance(out, str)
                for path, options in out.items()
                if options.get("cache") is False
            ]
            resolved["outs"] = [path for out in outs for path in ([out] if isinstance(out, str) else out)]
            found[f"{name}@{item}" if item else name] = resolved
    return found


def _keys(entry: Any) -> list[str]:
    """The keys that an entry of `params` tracks, as params.yaml has them."""
    if isinstance(entry, str):
        return [entry]
    ((file, keys),) = entry.items()
    return [f"experiments.{Path(file).parent.relative_to('results')}.{key}" for key in keys]


def stage_of(name: str) -> str:
    """The stage of the pipeline that a stage of dvc.yaml is, `zoo` of `zoo-classification-digits@mini`."""
    return name.partition("@")[0].partition("-")[0]


def under(path: str, folder: str) -> bool:
    return Path(path) == Path(folder) or Path(folder) in Path(path).parents


def below(tree: dict[str, dict[str, Any]], changed: set[str]) -> set[str]:
    """Of the stages `tree`, those in `changed` and all that read, directly or not, what they write."""
    stale, new = set(changed), set(changed)
    while new:
        written = [out for name in new for out in tree[name]["outs"]]
        reading = {
            name for name, stage in tree.items() if any(under(dep, out) for dep in stage["deps"] for out in written)
        }
        new = reading - stale
        stale |= new
    return stale


def stale_stages(folder: Path) -> set[str]:
    """The stages that `dvc status` finds changed, and those below them."""
    done = subprocess.run(["dvc", "status", "--json"], cwd=folder, capture_output=True, text=True, check=True)
    return below(stages(folder), set(json.loads(done.stdout)))


def as_stages(rules: set[str]) -> set[str]:
    """The stages of dvc.yaml that stand for these rules."""
    return {covered_by(rule) if rule in STAGES else rule for rule in rules}
