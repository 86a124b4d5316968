"""The ledger, DVC's records of every artifact and table: `rpg ledger write | status | pull | adopt | push`.

Snakemake is the only engine. The ledger records Snakemake's artifacts in DVC, and tells Snakemake about artifacts that
DVC restored.
"""

import csv
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg.config.loading import load_params
from rpg.config.resolved import write_configs
from rpg.paths import RESULTS, TABLES, Paths, ablation_file, paths_of
from rpg.pipeline.dvc import covered, dvc_yaml, lenders, stage_names
from rpg.stages import STAGES
from rpg.utils.errors import UserError
from rpg.utils.files import check_unchanged, read_sealed, write_text

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

CURRENT = "current"


def write(check: bool = False) -> None:
    """Write dvc.yaml; with `check`, write nothing and raise UserError if the file would change."""
    path, text = Path("dvc.yaml"), dvc_yaml(load_params())
    if not check:
        write_text(path, text)
    elif not path.is_file() or path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{path}: differs from params.yaml and the stages; run `rpg ledger write`, then this command again"
        )


def status() -> None:
    """Print one line per experiment in `run:` and one for the tables; read every byte of the artifacts."""
    write(check=True)
    with _repository() as repo:
        lines = examine(repo)
        damaged = damaged_copies(repo)
    unfinished = unfinished_files()
    for name, line in lines.items():
        # In a clone the tables are current although the artifacts are missing.
        whole = name != "tables" or set(lines.values()) == {CURRENT}
        if line == CURRENT and whole and any(owner == name for owner, _ in unfinished):
            line = "current, but not recorded in Snakemake; run `rpg ledger pull`"
        elif line != CURRENT and not unfinished and _is_whole(name):
            line = f"finished, but not recorded in dvc.lock; run `rpg ledger push` ({line})"
        print(f"{name:{max(map(len, lines))}}  {line}")
    for artifact in damaged.values():
        print(f"{artifact}: the copy in DVC's cache is damaged; `rpg ledger pull` drops it and fetches it again")


def pull() -> None:
    """Fetch the artifacts in dvc.lock, check every byte, and mark the artifacts as finished in Snakemake.

    Raises UserError, and marks nothing, if there is no remote, if an artifact is damaged, or if params.yaml or the code
    differ from dvc.lock.
    """
    write(check=True)
    with _repository() as repo:
        # Check before any fetch: artifacts made from other params or code are useless.
        stages = [stage for group in _stages(repo).values() for stage in group]
        for stage in stages:
            for cause in changed_inputs(stage):
                if not Path(cause).is_relative_to(RESULTS):
                    raise UserError(f"{stage.addressing}: stale because of {cause}; nothing was fetched")
        drop_damaged_copies(repo)
        changed_outs = [out for stage in stages for out in stage.outs if out.use_cache and out.workspace_status()]
        targets = [str(out) for out in changed_outs]
        needs_remote = any(out.changed_cache() for out in changed_outs)
        if needs_remote:
            _need_remote(repo, "nothing can be fetched")
        elif targets:
            repo.checkout(targets=targets)
    if needs_remote:
        with _repository(remote_config={"verify": True}) as repo:
            repo.pull(targets=targets)
    # A new repository object, because DVC remembers files that it has just written as whole, even damaged ones.
    with _repository() as repo:
        _need_current(examine(repo))
        # The artifacts are correct; the commit adds missing or dropped copies to the cache.
        repo.commit(force=True, relink=False)
    _tell_snakemake(TABLES)
    print("every artifact matches dvc.lock, and Snakemake has nothing to do")


def adopt() -> None:
    """Mark the experiments' artifacts as finished in Snakemake; UserError if an artifact differs from dvc.lock.

    The tables' stage of dvc.yaml calls this function, so that Snakemake knows artifacts from DVC's run-cache.
    """
    with _repository() as repo:
        lines = examine(repo)
    del lines["tables"]
    _need_current(lines)
    params = load_params()
    made = [
        path
        for name in covered(params)
        for path in (Paths(name).file("score.scores"), Paths(name).file("novelty.summary"))
    ]
    _tell_snakemake(*made, *(ablation_file(name) for name in params.ablations_to_run()))


def _need_current(lines: dict[str, str]) -> None:
    for name, line in lines.items():
        if line != CURRENT:
            raise UserError(f"{name}: {line}; Snakemake's records did not change")


def push() -> None:
    """Record all artifacts that Snakemake finished in dvc.lock, and upload them to DVC's default remote.

    Raises UserError if Snakemake has unfinished files, if an artifact changed after its job, or if there is no remote.
    Without a remote the artifacts are recorded, but not uploaded.
    """
    write(check=True)
    for name in [*covered(load_params()), *load_params().ablations_to_run()]:
        check_artifacts(name)
    for name, path in unfinished_files():
        raise UserError(f"{name}: {path} is not up to date; run `snakemake --cores all {TABLES}` first")
    check_tables()
    with _repository() as repo:
        drop_damaged_copies(repo)
        # Relinking would change the files' modification times.
        repo.commit(force=True, relink=False)
        _need_remote(repo, "recorded in dvc.lock and in the cache, but not uploaded")
        repo.push()
    print("dvc.lock records every artifact, and the remote has them; commit dvc.lock and results/ with git")


def _is_whole(name: str) -> bool:
    """Return whether all artifacts of an experiment, or the tables, are unchanged since their jobs."""
    with suppress(UserError):
        if name == "tables":
            check_tables()
        else:
            check_artifacts(name)
        return True
    return False


def check_tables() -> None:
    """Raise UserError unless the tables equal, byte by byte, those that `rpg tables` makes now."""
    from rpg.reports.tables import write_tables

    with tempfile.TemporaryDirectory() as again:
        write_tables(load_params(), RESULTS, Path(again))
        for expected in (path for path in Path(again).rglob("*") if path.is_file()):
            path = RESULTS / expected.relative_to(again)
            if not path.is_file() or path.read_bytes() != expected.read_bytes():
                raise UserError(f"{path}: does not match the scores; run `rpg tables` again")


def check_artifacts(name: str) -> None:
    """Raise UserError if an artifact of an experiment, or of an ablation's trials, changed after its job.

    An additional network among the artifacts is an error, too.
    """
    params = load_params()
    if name in params.ablations:
        for trial in params.trials(name):
            check_artifacts(trial)
        return
    paths, experiment = paths_of(params, name), params.experiment(name)
    for name_of_stage in experiment.stages():
        if lists := STAGES[name_of_stage].lists:
            artifact, key = lists
            command = f"rpg {name_of_stage} --experiment {name}"
            manifest = paths.file(f"{name_of_stage}.{artifact}")
            _check_listed(manifest, read_sealed(manifest, command).get(key, []), command)


def _check_listed(manifest: Path, entries: list[dict[str, str]], command: str) -> None:
    """Raise UserError unless the folder of `manifest` has exactly the listed networks, unchanged."""
    folder, listed = manifest.parent, {entry["file"]: entry["sha256"] for entry in entries}
    for file, digest in listed.items():
        check_unchanged(folder, file, digest, "made", f"`{command}`")
    # state/ is no artifact, but the state of a stopped training.
    known = {folder / file for file in ("state/state.safetensors", *listed)}
    for path in folder.rglob("*.safetensors"):
        if path not in known:
            raise UserError(f"{path}: no file of this experiment; delete it")


def examine(repo: "Repo") -> dict[str, str]:
    """Return the line of `status` for each experiment and ablation in `run:`, and for `tables`."""
    lines = {name: _line(stages) for name, stages in _stages(repo).items()}
    # Stale experiments make the tables stale. Missing artifacts do not: they existed when the tables were made.
    stale = [name for name, line in lines.items() if line.startswith("stale")]
    if stale and lines["tables"] == CURRENT:
        lines["tables"] = f"stale because of {stale[0]}"
    return lines


def _stages(repo: "Repo") -> dict[str, list["PipelineStage"]]:
    """Return experiment or ablation in `run:` → its stages of dvc.yaml, first to last; then `tables` → its stage."""
    params = load_params()
    run = [*covered(params), *params.ablations_to_run()]
    names = {name: list(stage_names(params, name).values()) for name in run} | {"tables": ["tables"]}
    return {owner: [repo.stage.load_one(name=name) for name in group] for owner, group in names.items()}


def _line(stages: list["PipelineStage"]) -> str:
    """Return the status of an experiment with these `stages`: current, the first cause of staleness, or missing."""
    for stage in stages:
        if not any(out.hash_info for out in stage.outs):
            return f"missing: {stage.addressing} was never recorded"
        for cause in causes(stage):
            return f"stale because of {cause}"
    missing = [str(out) for stage in stages for out in stage.outs if not out.exists]
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return f"missing: {missing[0]}{more}; `rpg ledger pull` brings it back" if missing else CURRENT


def causes(stage: "PipelineStage") -> Iterator[str]:
    """Yield the keys and files that differ from dvc.lock; missing artifacts do not count."""
    yield from changed_inputs(stage)
    for out in stage.outs:
        if out.workspace_status().get(str(out)) not in (None, "deleted"):
            yield f"{_first_difference(out)}, which differs from dvc.lock"


def changed_inputs(stage: "PipelineStage") -> Iterator[str]:
    """Yield the keys of params.yaml and input files of `stage` that differ from dvc.lock; then a changed command."""
    for dependency in sorted(stage.deps, key=lambda dependency: not hasattr(dependency, "read_params")):
        if hasattr(dependency, "read_params"):
            recorded = dependency.hash_info.value if dependency.hash_info else {}
            path = Path(str(dependency))
            # Name the keys of a resolved configuration as in params.yaml.
            where = f"experiments.{path.parent.relative_to(RESULTS)}" if path.is_relative_to(RESULTS) else ""
            yield from _changed_keys(recorded, dependency.read_params(), where)
        elif dependency.workspace_status().get(str(dependency)) not in (None, "deleted"):
            yield str(dependency)
    if stage.cmd_changed:
        yield f"the command of {stage.addressing} in dvc.yaml"


def _changed_keys(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield the dotted keys at which two trees differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _changed_keys(before.get(key), after.get(key), f"{where}.{key}" if where else key)
    elif before != after:
        yield where


def _first_difference(out: "Output") -> str:
    """Return the path of the first file in `out` that differs from dvc.lock, or the path of `out`."""
    tree = out.get_obj()
    if out.isdir() and isinstance(tree, Iterable):
        recorded = {Path(str(out), *key): digest.value for key, _, digest in tree}
        for path in sorted({*recorded, *(path for path in Path(str(out)).rglob("*") if path.is_file())}):
            if not path.is_file() or _md5(path) != recorded.get(path):
                return str(path)
    return str(out)


def damaged_copies(repo: "Repo") -> dict[Path, str]:
    """Return damaged files in DVC's cache → the artifact of each copy.

    A file is damaged if its content does not match the hash in its name. DVC itself trusts every read-only file in its
    cache.
    """
    damaged = {}
    for out in repo.index.outs:
        if not (out.use_cache and out.hash_info):
            continue
        copies = {out.hash_info.value: str(out)}
        tree = out.get_obj()
        if isinstance(tree, Iterable):
            copies |= {digest.value: str(Path(str(out), *key)) for key, _, digest in tree}
        for name, artifact in copies.items():
            copy = Path(out.cache.oid_to_path(name))
            if copy.is_file() and _md5(copy) != name.removesuffix(".dir"):
                damaged[copy] = artifact
    return damaged


def drop_damaged_copies(repo: "Repo") -> None:
    """Remove damaged copies from DVC's cache, and artifacts with the same damaged bytes."""
    for copy, artifact in damaged_copies(repo).items():
        print(f"{artifact}: the copy in DVC's cache was damaged; dropped", file=sys.stderr)
        if Path(artifact).is_file() and _md5(Path(artifact)) == _md5(copy):
            Path(artifact).unlink()
        copy.unlink()


def unfinished_files() -> list[tuple[str, str]]:
    """Return the files that Snakemake would make for the tables: (experiment or `tables`, path)."""
    rows = csv.DictReader(snakemake("--summary", "--", str(TABLES)).splitlines(), delimiter="\t")
    # A file without a record in Snakemake counts as unfinished, because Snakemake would not notice changed params.
    pending = [Path(row["output_file"]) for row in rows if row["plan"] != "no update" or row["log-file(s)"] == "-"]
    return [(path.parts[1] if len(path.parts) > 2 else "tables", str(path)) for path in pending]


def _tell_snakemake(*made: Path) -> None:
    """Make Snakemake record `made` and all of their inputs as finished."""
    # Without --forceall Snakemake records only a part, and later overlooks changed params of the others.
    snakemake("--touch", "--forceall", "--cores", "1", "--", *map(str, made))


def snakemake(*options: str) -> str:
    """Run Snakemake and return its standard output; UserError with the last line of its errors if it fails."""
    done = subprocess.run([sys.executable, "-m", "snakemake", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"snakemake {' '.join(options)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


@contextmanager
def _repository(**options: Any) -> Iterator["Repo"]:
    """Open the DVC repository and turn DVC's errors into one line.

    DVC's cache of hashes is disabled, because it trusts file sizes and times.
    """
    from dvc.exceptions import CheckoutError, DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    params = load_params()
    # DVC compares the values in these files with the values in dvc.lock.
    write_configs(params, [*covered(params), *lenders(params)])
    with tempfile.TemporaryDirectory() as empty_cache:
        try:
            with Repo(config={"core": {"site_cache_dir": empty_cache}}, **options) as repo:
                yield repo
        except CheckoutError as error:
            raise UserError(f"{error.target_infos[0]}: the remote lacks it, or holds a damaged copy") from error
        except (DvcException, SCMError) as error:
            if "unsaved files" in str(error):
                path = os.path.relpath(str(error).splitlines()[-1])
                raise UserError(f"{path}: not what dvc.lock records; delete it, or `rpg ledger push` it") from error
            raise UserError(f"dvc: {_without_secrets(str(error))}") from error
        except (ImportError, ValueError) as error:
            # The package for the remote's kind is not installed, or the remote's URL is invalid.
            raise UserError(f"dvc: {_without_secrets(str(error))}") from error


def _without_secrets(text: str) -> str:
    """Remove user and password from each URL in `text`."""
    return re.sub(r"(\w://)[^\s/]*@", r"\1", text)


def _need_remote(repo: "Repo", otherwise: str) -> None:
    """Raise UserError that starts with `otherwise` if DVC has no default remote."""
    if repo.config["core"].get("remote") not in repo.config["remote"]:
        raise UserError(f"{otherwise}: there is no remote; add one with `dvc remote add --default NAME URL`")
