"""The ledger: DVC records every artifact and table that the rules make: `rpg ledger write | status | pull | push`.

Snakemake is the only engine. A stage of dvc.yaml calls Snakemake for the rules of one layer; its deps, params and outs
say what those rules read and write, so `dvc status` and `snakemake --dry-run` agree on what is up to date.
"""

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rpg.errors import UserError
from rpg.files import check_files, write_text
from rpg.params import Params, load_params
from rpg.paths import RESULTS, Paths
from rpg.workflow import CHOICES, code

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

TABLES = RESULTS / "tables.md"
CURRENT = "current"
HEADER = """\
# The ledger: one stage per layer and experiment, each of which calls Snakemake for that layer's rules.
# Written by `rpg ledger write` from params.yaml and the rules; a test compares it with both.
"""


@dataclass(frozen=True)
class Stage:
    """One layer in dvc.yaml: its rules, and what one experiment's jobs of them read and write together."""

    desc: str
    rules: tuple[str, ...]
    target: Path
    reads: tuple[Path, ...]
    writes: dict[Path, dict[str, bool]]
    options: str = ""


ITEM = Paths("${item}")
TOKENS, LAYOUT, STATS = (ITEM.tokens / name for name in ("tokens.safetensors", "layout.json", "stats.safetensors"))
MODEL, CONFIG, LOSS = (ITEM.rpg / name for name in ("model.safetensors", "config.json", "log.csv"))
PLAIN: dict[str, bool] = {}
# In git, not in DVC's cache: small, and read without either.
IN_GIT = {"cache": False}
STAGES = {
    "zoo": Stage(
        "train the source networks and list their checkpoints",
        rules=("zoo", "collect"),
        target=ITEM.zoo / "checkpoints.json",
        reads=(),
        # DVC would delete all shards for one more seed. So they stay, and collect runs each time, that none of them is
        # taken unchecked.
        writes={ITEM.zoo: {"persist": True}},
        options="--forcerun collect",
    ),
    "tokens": Stage(
        "tokenise the checkpoints",
        rules=("tokens",),
        target=TOKENS,
        reads=(ITEM.zoo,),
        writes={TOKENS: PLAIN, LAYOUT: PLAIN, STATS: PLAIN},
    ),
    "train": Stage(
        "train RPG on the tokens",
        rules=("train",),
        target=MODEL,
        reads=(TOKENS, LAYOUT, STATS),
        writes={MODEL: PLAIN, CONFIG: PLAIN, LOSS: PLAIN, ITEM.seconds("train"): PLAIN},
    ),
    "sample": Stage(
        "sample new networks",
        rules=("sample",),
        target=ITEM.samples / "manifest.json",
        reads=(LAYOUT, STATS, MODEL, CONFIG),
        writes={ITEM.samples: PLAIN, ITEM.seconds("sample"): PLAIN},
    ),
    "score": Stage(
        "score originals and samples",
        rules=("score",),
        target=ITEM.scores,
        reads=(ITEM.zoo, ITEM.samples),
        writes={ITEM.scores: PLAIN, ITEM.metrics: IN_GIT},
    ),
}


def _stage(stage: Stage) -> dict[str, Any]:
    """The stage as dvc.yaml has it."""
    command = ["snakemake --cores all --allowed-rules", *stage.rules, *stage.options.split(), "--", str(stage.target)]
    return {
        "desc": stage.desc,
        "cmd": " ".join(command),
        "params": [f"experiments.{ITEM.experiment}.{key}" for key in _union(CHOICES[rule] for rule in stage.rules)],
        "deps": [*map(str, stage.reads), *_union(code(rule) for rule in stage.rules)],
        "outs": [{str(path): options} if options else str(path) for path, options in stage.writes.items()],
    }


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return sorted({entry for some in lists for entry in some})


def dvc_yaml(params: Params) -> str:
    """The text of dvc.yaml for `params`."""
    run = [Paths(name) for name in params.run]
    tables = ("tables.md", "metrics.json", "scores.csv", "seconds.json", "seconds.md")
    read = [
        path for paths in run for path in (paths.scores, paths.metrics, paths.seconds("train"), paths.seconds("sample"))
    ]
    stages: dict[str, Any] = {name: {"foreach": "${run}", "do": _stage(stage)} for name, stage in STAGES.items()}
    stages["tables"] = {
        "desc": "put the experiments in `run` beside each other",
        "cmd": ["python -m rpg ledger write --check", f"snakemake --cores all --allowed-rules tables -- {TABLES}"],
        "params": ["run"],
        "deps": [*map(str, read), *code("tables")],
        "outs": [{str(RESULTS / name): IN_GIT} for name in tables],
    }
    tree = {
        "stages": stages,
        "params": ["params.yaml"],
        "metrics": [str(paths.metrics) for paths in run],
        "plots": [
            {
                "loss": {
                    "x": "step",
                    "y": {str(paths.rpg / "log.csv"): "loss" for paths in run},
                    "template": "workflow/report/loss.json",
                    "title": "RPG training loss",
                }
            },
            {
                "accuracy": {
                    "x": "networks",
                    "y": {str(RESULTS / "scores.csv"): "test"},
                    "template": "workflow/report/accuracy.json",
                    "title": "Accuracy of originals and of RPG's samples",
                }
            },
        ],
    }
    # Through JSON, so that blocks used twice are written out twice.
    return HEADER + yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False, width=120)


def write(check: bool = False) -> None:
    """Write dvc.yaml; with `check` only raise UserError if it would change."""
    path, text = Path("dvc.yaml"), dvc_yaml(load_params())
    if not check:
        write_text(path, text)
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path}: not that of params.yaml and the rules; run `rpg ledger write`, then go on")


def status() -> None:
    """Print one line per experiment in `run:` and one for the tables; every byte is read for it."""
    write(check=True)
    with _repository() as repo:
        lines = examine(repo)
        damaged = damaged_copies(repo)
    unfinished = unfinished_files()
    for name, line in lines.items():
        known = not any(owner == name for owner, _ in unfinished)
        if line == CURRENT and not known:
            line = "current, but unknown to Snakemake, which would make it again; `rpg ledger pull` tells it"
        elif line != CURRENT and not unfinished:
            line = f"finished, but not recorded; `rpg ledger push` does that ({line})"
        print(f"{name:{max(map(len, lines))}}  {line}")
    for artifact in damaged.values():
        print(f"{artifact}: the copy in DVC's cache is damaged; `rpg ledger pull` drops it and fetches it again")


def pull() -> None:
    """Fetch the artifacts that dvc.lock records, read every byte of them, and tell Snakemake that they are finished.

    Raises UserError, and tells Snakemake nothing, if there is no remote, if an artifact is damaged, or if params.yaml
    or the code is not that of dvc.lock any more.
    """
    write(check=True)
    with _repository(remote_config={"verify": True}) as repo:
        drop_damaged_copies(repo)
        if examine(repo) != dict.fromkeys([*load_params().run, "tables"], CURRENT):
            _need_remote(repo, "nothing can be fetched")
            repo.pull()
        for name, line in examine(repo).items():
            if line != CURRENT:
                raise UserError(f"{name}: {line}; Snakemake was told nothing")
    # Only with --forceall are all records written; those of a part would hide later changes of params elsewhere.
    _snakemake("--touch", "--forceall", "--cores", "1", "--", str(TABLES))
    print("every artifact is that of dvc.lock, and Snakemake has nothing to do")


def push() -> None:
    """Record what Snakemake has finished in dvc.lock, and upload it to DVC's default remote.

    Raises UserError if Snakemake would still make something, if an artifact does not hold what it held when it was
    made, or if there is no remote; what was finished is recorded even then.
    """
    write(check=True)
    for _, path in unfinished_files():
        raise UserError(f"{path}: not up to date; run `snakemake --cores all {TABLES}` first")
    for name in load_params().run:
        paths = Paths(name)
        check_files(paths.zoo / "checkpoints.json", "checkpoints")
        check_files(paths.tokens / "layout.json", "files")
        check_files(paths.rpg / "config.json", "files")
        check_files(paths.samples / "manifest.json", "samples")
    with _repository() as repo:
        drop_damaged_copies(repo)
        # Relinking would give the files new times.
        repo.commit(force=True, relink=False)
        _need_remote(repo, "recorded in dvc.lock and in the cache, but not uploaded")
        repo.push()
    print("dvc.lock records every artifact, and the remote has them; commit dvc.lock and results/ with git")


def examine(repo: "Repo") -> dict[str, str]:
    """What `status` says of each experiment in `run:`, and of `tables`."""
    lines = {}
    for name in load_params().run:
        lines[name] = _line([repo.stage.load_one(name=f"{layer}@{name}") for layer in STAGES])
    behind = [name for name, line in lines.items() if line != CURRENT]
    tables = _line([repo.stage.load_one(name="tables")])
    lines["tables"] = f"stale because of {behind[0]}" if behind and tables == CURRENT else tables
    return lines


def _line(stages: list["PipelineStage"]) -> str:
    """The line of the experiment that `stages` make, first to last: its first cause to be stale, or what is missing."""
    for stage in stages:
        if not any(out.hash_info for out in stage.outs):
            return f"missing: {stage.addressing} was never recorded"
        for cause in causes(stage):
            return f"stale because of {cause}"
    missing = [str(out) for stage in stages for out in stage.outs if not out.exists]
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return f"missing: {missing[0]}{more}; `rpg ledger pull` fetches it, Snakemake makes it" if missing else CURRENT


def causes(stage: "PipelineStage") -> Iterator[str]:
    """The keys and files that make `stage` differ from dvc.lock, other than artifacts that are not there."""
    for dependency in stage.deps:
        if hasattr(dependency, "read_params"):
            recorded = dependency.hash_info.value if dependency.hash_info else {}
            yield from _changed_keys(recorded, dependency.read_params())
        elif dependency.workspace_status().get(str(dependency)) not in (None, "deleted"):
            yield str(dependency)
    if stage.cmd_changed:
        yield f"the command of {stage.addressing} in dvc.yaml"
    for out in stage.outs:
        if out.workspace_status().get(str(out)) not in (None, "deleted"):
            yield f"{_first_difference(out)}, which is not what was recorded"


def _changed_keys(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """The keys at which two trees differ, with the names of all keys above them."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _changed_keys(before.get(key), after.get(key), f"{where}.{key}" if where else key)
    elif before != after:
        yield where


def _first_difference(out: "Output") -> str:
    """The path of `out`, or of the first file in it that differs from what was recorded."""
    tree = out.get_obj()
    if out.isdir() and isinstance(tree, Iterable):
        recorded = {Path(str(out), *key): found.value for key, _, found in tree}
        for path in sorted({*recorded, *(path for path in Path(str(out)).rglob("*") if path.is_file())}):
            if not path.is_file() or _md5(path) != recorded.get(path):
                return str(path)
    return str(out)


def damaged_copies(repo: "Repo") -> dict[Path, str]:
    """Files of DVC's cache that do not hold what their name says → the artifact that they are a copy of.

    DVC itself takes any read-only file of its cache for whole.
    """
    damaged = {}
    for out in repo.index.outs:
        if not (out.use_cache and out.hash_info):
            continue
        copies = {out.hash_info.value: str(out)}
        tree = out.get_obj()
        if isinstance(tree, Iterable):
            copies |= {found.value: str(Path(str(out), *key)) for key, _, found in tree}
        for name, artifact in copies.items():
            copy = Path(out.cache.oid_to_path(name))
            if copy.is_file() and _md5(copy) != name.removesuffix(".dir"):
                damaged[copy] = artifact
    return damaged


def drop_damaged_copies(repo: "Repo") -> None:
    """Remove what `damaged_copies` finds, and where an artifact is the same damaged bytes, that artifact."""
    for copy, artifact in damaged_copies(repo).items():
        print(f"{artifact}: the copy in DVC's cache was damaged; dropped", file=sys.stderr)
        if Path(artifact).is_file() and _md5(Path(artifact)) == _md5(copy):
            Path(artifact).unlink()
        copy.unlink()


def unfinished_files() -> list[tuple[str, str]]:
    """What Snakemake would make on the way to the tables: the experiment, or `tables`, and the file."""
    rows = csv.DictReader(_snakemake("--summary", "--", str(TABLES)).splitlines(), delimiter="\t")
    pending = [Path(row["output_file"]) for row in rows if row["plan"] != "no update"]
    return [(path.parts[1] if len(path.parts) > 2 else "tables", str(path)) for path in pending]


def _snakemake(*options: str) -> str:
    """Standard output of Snakemake; UserError with its last words if it fails."""
    done = subprocess.run([sys.executable, "-m", "snakemake", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"snakemake {' '.join(options)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@contextmanager
def _repository(**options: Any) -> Iterator["Repo"]:
    """The DVC repository, without DVC's memory of hashes, which trusts sizes and times; its errors in one line."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    with tempfile.TemporaryDirectory() as memory:
        try:
            with Repo(config={"core": {"site_cache_dir": memory}}, **options) as repo:
                yield repo
        except (DvcException, SCMError) as error:
            raise UserError(f"dvc: {error}") from error


def _need_remote(repo: "Repo", otherwise: str) -> None:
    if not repo.config["core"].get("remote"):
        raise UserError(f"{otherwise}: there is no remote; add one with `dvc remote add --default NAME URL`")
