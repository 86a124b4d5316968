"""The ledger, DVC's records of every artifact and table: `rpg ledger write | status | pull | adopt | push`.

Snakemake is the only engine; DVC is told what it made, and Snakemake what DVC brought back.
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
        # A clone's tables are current without the artifacts behind them.
        whole = name != "tables" or set(lines.values()) == {CURRENT}
        if line == CURRENT and whole and any(owner == name for owner, _ in unfinished):
            line = "current, but Snakemake does not know it; `rpg ledger pull` tells it"
        elif line != CURRENT and not unfinished and _is_whole(name):
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
    with _repository() as repo:
        # Before anything is fetched: what dvc.lock records was made from these very params and files, or is not wanted.
        stages = [stage for group in _stages(repo).values() for stage in group]
        for stage in stages:
            for cause in changed_inputs(stage):
                if not Path(cause).is_relative_to(RESULTS):
                    raise UserError(f"{stage.addressing}: stale because of {cause}; nothing was fetched")
        drop_damaged_copies(repo)
        wanted = [out for stage in stages for out in stage.outs if out.use_cache and out.workspace_status()]
        targets = [str(out) for out in wanted]
        lacking = any(out.changed_cache() for out in wanted)
        if lacking:
            _need_remote(repo, "nothing can be fetched")
        elif targets:
            repo.checkout(targets=targets)
    if lacking:
        with _repository(remote_config={"verify": True}) as repo:
            repo.pull(targets=targets)
    # Once more from nothing: DVC remembers what it has just written as whole, whatever it wrote.
    with _repository() as repo:
        _need_current(examine(repo))
        # The artifacts are right; this gives the cache the copies that were dropped, or never there.
        repo.commit(force=True, relink=False)
    _tell_snakemake(TABLES)
    print("every artifact is that of dvc.lock, and Snakemake has nothing to do")


def adopt() -> None:
    """Tell Snakemake that the experiments' artifacts are finished; UserError if one is not that of dvc.lock.

    The tables' stage calls it, so that Snakemake also knows what DVC brought back from its run-cache.
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
            raise UserError(f"{name}: {line}; Snakemake was told nothing")


def push() -> None:
    """Record what Snakemake has finished in dvc.lock, and upload it to DVC's default remote.

    Raises UserError if Snakemake would still make something, if an artifact does not hold what it held when it was
    made, or if there is no remote; what was finished is recorded even then.
    """
    write(check=True)
    for name in [*covered(load_params()), *load_params().ablations_to_run()]:
        check_artifacts(name)
    for name, path in unfinished_files():
        raise UserError(f"{name}: {path} is not up to date; run `snakemake --cores all {TABLES}` first")
    check_tables()
    with _repository() as repo:
        drop_damaged_copies(repo)
        # Relinking would give the files new times.
        repo.commit(force=True, relink=False)
        _need_remote(repo, "recorded in dvc.lock and in the cache, but not uploaded")
        repo.push()
    print("dvc.lock records every artifact, and the remote has them; commit dvc.lock and results/ with git")


def _is_whole(name: str) -> bool:
    with suppress(UserError):
        if name == "tables":
            check_tables()
        else:
            check_artifacts(name)
        return True
    return False


def check_tables() -> None:
    """UserError unless the tables are, byte by byte, what `rpg tables` makes of the experiments' scores."""
    from rpg.reports.tables import write_tables

    with tempfile.TemporaryDirectory() as again:
        write_tables(load_params(), RESULTS, Path(again))
        for expected in (path for path in Path(again).rglob("*") if path.is_file()):
            path = RESULTS / expected.relative_to(again)
            if not path.is_file() or path.read_bytes() != expected.read_bytes():
                raise UserError(f"{path}: not what the scores say; run `rpg tables` again")


def check_artifacts(name: str) -> None:
    """UserError unless the artifacts of an experiment hold what they held when they were made, with no file beside.

    Of an ablation, those of all its trials.
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
    """UserError unless the folder of `manifest` has the files that it lists, and no other networks."""
    folder, listed = manifest.parent, {entry["file"]: entry["sha256"] for entry in entries}
    for file, digest in listed.items():
        check_unchanged(folder, file, digest, "made", f"`{command}`")
    # state/ is no artifact: a stopped training resumes from it.
    known = {folder / file for file in ("state/state.safetensors", *listed)}
    for path in folder.rglob("*.safetensors"):
        if path not in known:
            raise UserError(f"{path}: no file of this experiment; delete it")


def examine(repo: "Repo") -> dict[str, str]:
    """What `status` says of each experiment in `run:`, and of `tables`."""
    lines = {name: _line(stages) for name, stages in _stages(repo).items()}
    # What is only missing here was there when the tables were made.
    behind = [name for name, line in lines.items() if line.startswith("stale")]
    if behind and lines["tables"] == CURRENT:
        lines["tables"] = f"stale because of {behind[0]}"
    return lines


def _stages(repo: "Repo") -> dict[str, list["PipelineStage"]]:
    """Each experiment, and ablation in `run:` → its stages, first to last; then `tables` → theirs."""
    params = load_params()
    run = [*covered(params), *params.ablations_to_run()]
    names = {name: list(stage_names(params, name).values()) for name in run} | {"tables": ["tables"]}
    return {owner: [repo.stage.load_one(name=name) for name in group] for owner, group in names.items()}


def _line(stages: list["PipelineStage"]) -> str:
    """The line of the experiment that `stages` make, first to last: its first cause to be stale, or what is missing."""
    for stage in stages:
        if not any(out.hash_info for out in stage.outs):
            return f"missing: {stage.addressing} was never recorded"
        for cause in causes(stage):
            return f"stale because of {cause}"
    missing = [str(out) for stage in stages for out in stage.outs if not out.exists]
    more = f" and {len(missing) - 1} more" if missing[1:] else ""
    return f"missing: {missing[0]}{more}; `rpg ledger pull` brings it back" if missing else CURRENT


def causes(stage: "PipelineStage") -> Iterator[str]:
    """The keys and files that make `stage` differ from dvc.lock, other than artifacts that are not there."""
    yield from changed_inputs(stage)
    for out in stage.outs:
        if out.workspace_status().get(str(out)) not in (None, "deleted"):
            yield f"{_first_difference(out)}, which is not what was recorded"


def changed_inputs(stage: "PipelineStage") -> Iterator[str]:
    """The keys of params.yaml and the files that `stage` would be made from now, and was not; then its command."""
    for dependency in sorted(stage.deps, key=lambda dependency: not hasattr(dependency, "read_params")):
        if hasattr(dependency, "read_params"):
            recorded = dependency.hash_info.value if dependency.hash_info else {}
            path = Path(str(dependency))
            # The keys of a resolved configuration, by the names that they have in params.yaml.
            where = f"experiments.{path.parent.relative_to(RESULTS)}" if path.is_relative_to(RESULTS) else ""
            yield from _changed_keys(recorded, dependency.read_params(), where)
        elif dependency.workspace_status().get(str(dependency)) not in (None, "deleted"):
            yield str(dependency)
    if stage.cmd_changed:
        yield f"the command of {stage.addressing} in dvc.yaml"


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
    rows = csv.DictReader(snakemake("--summary", "--", str(TABLES)).splitlines(), delimiter="\t")
    # Without a record of its own, Snakemake takes a file for finished, whatever params it was made with.
    pending = [Path(row["output_file"]) for row in rows if row["plan"] != "no update" or row["log-file(s)"] == "-"]
    return [(path.parts[1] if len(path.parts) > 2 else "tables", str(path)) for path in pending]


def _tell_snakemake(*made: Path) -> None:
    """Have Snakemake record that `made` and all that they are made from are finished."""
    # Without --forceall it records a part only, and later overlooks changed params of the rest.
    snakemake("--touch", "--forceall", "--cores", "1", "--", *map(str, made))


def snakemake(*options: str) -> str:
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
    from dvc.exceptions import CheckoutError, DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    params = load_params()
    # DVC compares the values in these files with those of dvc.lock.
    write_configs(params, [*covered(params), *lenders(params)])
    with tempfile.TemporaryDirectory() as memory:
        try:
            with Repo(config={"core": {"site_cache_dir": memory}}, **options) as repo:
                yield repo
        except CheckoutError as error:
            raise UserError(f"{error.target_infos[0]}: the remote lacks it, or holds a damaged copy") from error
        except (DvcException, SCMError) as error:
            if "unsaved files" in str(error):
                path = os.path.relpath(str(error).splitlines()[-1])
                raise UserError(f"{path}: not what dvc.lock records; delete it, or `rpg ledger push` it") from error
            raise UserError(f"dvc: {_without_secrets(str(error))}") from error
        except (ImportError, ValueError) as error:
            # A remote of a kind whose package is not installed, or whose URL is none.
            raise UserError(f"dvc: {_without_secrets(str(error))}") from error


def _without_secrets(text: str) -> str:
    """`text` with the user and password of each URL left out."""
    return re.sub(r"(\w://)[^\s/]*@", r"\1", text)


def _need_remote(repo: "Repo", otherwise: str) -> None:
    """UserError, beginning with `otherwise`, if DVC has no default remote."""
    if repo.config["core"].get("remote") not in repo.config["remote"]:
        raise UserError(f"{otherwise}: there is no remote; add one with `dvc remote add --default NAME URL`")
