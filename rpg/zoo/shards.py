"""Train one shard of the zoo: `rpg zoo --experiment digits-resnet --shard 0000-0007`.

Writes zoo/<shard>/<seed>-<step>.safetensors, or <seed>-<code>-<step>.safetensors where there are task codes, and,
last, zoo/<shard>/manifest.json, which lists them. While it runs, zoo/<shard>/finished.json lists the seeds that are
done: a killed run goes on with the next ones. Where one of several seeds that are trained at once diverges, each is
trained by itself; a seed that does then is trained again as another one, which the manifest says under `diverged`.
"""

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from rpg.config.experiment import Experiment
from rpg.tasks.base import Task
from rpg.tasks.config import Run
from rpg.tasks.loading import load_task
from rpg.tasks.stack import StateDict
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import (
    check_unchanged,
    clear,
    exclusive,
    file_entry,
    read_sealed,
    write_sealed,
)
from rpg.utils.progress import progress
from rpg.zoo.manifest import Finished, fingerprint, read_base

# What stands in for seed s are s + NEXT, s + 2 NEXT, ...: it must not depend on the seeds of other shards.
NEXT = 1_000_000
MOST_REPLACED = 3


def train_shard(experiment: Experiment, runs: list[Run], folder: Path, base: Path, data_root: str | None) -> None:
    """Train the networks of `runs` and save the last states of each into `folder`; they start from those in `base`.

    Raises Diverged if a seed does, and MOST_REPLACED others in its place.
    """
    task = load_task(experiment.task, data_root)
    task.check()
    start = {seed: read_base(experiment, base, seed) for seed in {run.seed for run in runs}}
    most = experiment.zoo.runs_at_once()
    groups = [runs[first : first + most] for first in range(0, len(runs), most)]
    facts = {"recipe": experiment.recipe(runs), "base": fingerprint(experiment, base)}
    # What was trained elsewhere is only read, and may have been changed since; the recipe does not say.
    resumes = experiment.zoo.trained_here
    with exclusive(folder):
        (folder / "manifest.json").unlink(missing_ok=True)
        done = _finished(folder, facts) if resumes else []
        if not done:
            clear(folder)
        for group in progress(groups[len(done) :], "zoo", total=len(groups), done=len(done)):
            done.append(_train_group(task, experiment, group, start, folder))
            if resumes and len(done) < len(groups):
                write_sealed(folder / "finished.json", {**facts, "finished": done})
        # safetensors sorts tensors by itself; tokens follow the state dict's order, so it is kept here.
        manifest = {**facts, "tensors": done[-1]["tensors"]}
        manifest["checkpoints"] = [entry for found in done for entry in found["checkpoints"]]
        if diverged := {seed: new for found in done for seed, new in found["diverged"].items()}:
            manifest["diverged"] = diverged
        write_sealed(folder / "manifest.json", manifest)
        (folder / "finished.json").unlink(missing_ok=True)


def _finished(folder: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What a killed run of the same `facts` had finished, group by group; none if a file of it was changed since."""
    path = folder / "finished.json"
    if not path.exists():
        return []
    try:
        tree = read_sealed(path, "rpg zoo", Finished)
        if {key: tree.get(key) for key in facts} != facts:
            return []
        for found in tree["finished"]:
            for entry in found["checkpoints"]:
                check_unchanged(folder, entry["file"], entry["sha256"], "trained", "`rpg zoo`")
    except UserError as error:
        print(f"zoo: starting over ({error})", file=sys.stderr, flush=True)
        return []
    return list(tree["finished"])


def _train_group(
    task: Task, experiment: Experiment, group: list[Run], start: dict[int, StateDict | None], folder: Path
) -> dict[str, Any]:
    """Train and save networks at once; `diverged` says which seeds stand in for those that diverged."""
    seed = group[0].seed
    if any(run.seed != seed for run in group):
        try:
            return _train(task, experiment, group, group, start, folder)
        except Diverged as error:
            print(f"{error}; training each seed by itself", file=sys.stderr, flush=True)
        alone = [
            _train_group(task, experiment, list(of_seed), start, folder)
            for _, of_seed in groupby(group, key=lambda run: run.seed)
        ]
        return {
            "checkpoints": [entry for found in alone for entry in found["checkpoints"]],
            "tensors": alone[0]["tensors"],
            "diverged": {seed: new for found in alone for seed, new in found["diverged"].items()},
        }
    for replaced in range(MOST_REPLACED + 1):
        trained = seed + replaced * NEXT
        try:
            found = _train(
                task, experiment, group, [run.model_copy(update={"seed": trained}) for run in group], start, folder
            )
        except Diverged as error:
            if replaced == MOST_REPLACED:
                raise Diverged(f"{error}; so did the seeds before it, {seed} and what stood in for it") from error
            print(f"{error}; training seed {trained + NEXT} in its place", file=sys.stderr, flush=True)
        else:
            break
    return {**found, "diverged": {str(seed): trained} if replaced else {}}


def _train(
    task: Task,
    experiment: Experiment,
    group: list[Run],
    runs: list[Run],
    start: dict[int, StateDict | None],
    folder: Path,
) -> dict[str, Any]:
    """Train `runs` and save them as those of `group`; Diverged if one does."""
    checkpoints: list[list[dict[str, Any]]] = [[] for _ in group]
    names: list[str] = []

    def save(step: int, state_dicts: list[StateDict]) -> None:
        for run, entries, state_dict in zip(group, checkpoints, state_dicts, strict=True):
            code = f"{run.code}-" if run.code else ""
            if not all(tensor.isfinite().all() for tensor in state_dict.values() if tensor.is_floating_point()):
                raise Diverged(
                    f"zoo: seed {run.seed} has weights of NaN or Inf at step {step}; lower its learning_rate"
                )
            path = task.write(folder / f"{run.seed:04d}-{code}{step:06d}", state_dict)
            names[:] = state_dict
            score = task.score(state_dict, "validation", run.code)
            entry = {**file_entry(path, folder), "step": step, f"validation_{task.metric}": score}
            entries.append({**entry, **run.model_dump(exclude_none=True)})

    task.train(experiment.zoo, runs, [start[run.seed] for run in group], save)
    return {"checkpoints": [entry for entries in checkpoints for entry in entries], "tensors": names, "diverged": {}}
