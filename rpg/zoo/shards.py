"""Train one shard of the zoo: `rpg zoo --experiment digits-resnet --shard 0000-0007`.

The stage writes zoo/<shard>/<seed>-<step>.safetensors, or <seed>-<code>-<step>.safetensors with task codes, and, last,
zoo/<shard>/manifest.json, which lists them.

During the training zoo/<shard>/finished.json lists the finished seeds. A killed run resumes with the next seed. If one
of several seeds in a group diverges, each seed of the group is trained alone. A seed that diverges alone is trained
again with a substitute seed, which the manifest records under `diverged`.
"""

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from rpg.config.experiment import Experiment
from rpg.sources import code_digest
from rpg.tasks.base import Task
from rpg.tasks.config import Run
from rpg.tasks.loading import check_features, load_task, prompted_task, text_task
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
from rpg.zoo.manifest import Checkpoint, Finished, Trained, check_vectors, fingerprint, read_base

# The substitutes of seed s are s + NEXT, s + 2 NEXT, ...: they must not depend on the seeds of other shards.
NEXT = 1_000_000
MAX_SUBSTITUTES = 3


def train_shard(experiment: Experiment, runs: list[Run], folder: Path, base: Path, data_root: str | None) -> None:
    """Train the networks of `runs` from the base networks in `base`, and save their last states into `folder`.

    Raises Diverged if a seed and its MAX_SUBSTITUTES substitutes all diverge, and UserError if a vector of the model's
    conditions is no number that the checkpoints will have.
    """
    task = load_task(experiment.task, data_root)
    task.check()
    if experiment.task.adapters is None:
        # The network tells whether the zoo has adapters.
        experiment.tokens.check_form(task.adapter_config())
    # `check_vectors` knows the same keys of a checkpoint that exists.
    known = ["held_out", "seed", "step", *task.fact_names(experiment.zoo)]
    known += [f"validation_{task.metric}"] if experiment.task.has_score else []
    check_vectors(experiment.model.conditions, known, "a checkpoint of this zoo")
    start = {seed: read_base(experiment, base, seed) for seed in {run.seed for run in runs}}
    _check_prompts(experiment, task, runs[0], start[runs[0].seed])
    most = experiment.zoo.runs_at_once()
    groups = [runs[first : first + most] for first in range(0, len(runs), most)]
    facts = {"recipe": experiment.recipe(runs), "base": fingerprint(experiment, base)}
    # Checkpoints from elsewhere may change while the recipe stays the same, so every run reads them again.
    resumes = experiment.zoo.trained_here
    with exclusive(folder):
        (folder / "manifest.json").unlink(missing_ok=True)
        made_by = {**facts, "code": code_digest("zoo", experiment.task)}
        done = _finished(folder, made_by) if resumes else []
        if not done:
            clear(folder)
        for group in progress(groups[len(done) :], "zoo", total=len(groups), done=len(done)):
            done.append(_train_group(task, experiment, group, start, folder))
            if resumes and len(done) < len(groups):
                write_sealed(folder / "finished.json", {**made_by, "finished": [trained.tree() for trained in done]})
        # safetensors sorts tensors by name, but tokens follow the state dict's order, so the manifest keeps that order.
        manifest: dict[str, Any] = {**facts, "tensors": done[-1].tensors}
        manifest["checkpoints"] = [checkpoint.tree() for trained in done for checkpoint in trained.checkpoints]
        if buffers := [name for name in manifest["tensors"] if name in task.buffers]:
            manifest["buffers"] = buffers
        if tied := {name: other for name, other in task.tied.items() if {name, other} <= set(manifest["tensors"])}:
            manifest["tied"] = tied
        if summary := task.summary():
            manifest["summary"] = summary
        if diverged := _diverged(done):
            manifest["diverged"] = diverged
        write_sealed(folder / "manifest.json", manifest)
        (folder / "finished.json").unlink(missing_ok=True)


def _check_prompts(experiment: Experiment, task: Task, run: Run, base: StateDict | None) -> None:
    """Raise UserError if the condition of a prompt does not fit the network that reads prompts.

    `rpg tune` would find it when the zoo is trained.
    """
    if text := experiment.model.text:
        asking = text_task(task)
        features = asking.text_features(text, asking.prompt_texts("train", run.code or "")[:1])
        check_features(text.kind, features.shape[1], text.features)
    if (images := experiment.images) and base:
        shown = prompted_task(task)
        features = shown.image_features(base)(shown.labeled_images("train")[0][:1])
        check_features(images.kind, features.shape[1], images.features)


def _diverged(groups: list[Trained]) -> dict[str, int]:
    return {seed: new for trained in groups for seed, new in trained.diverged.items()}


def _finished(folder: Path, made_by: dict[str, Any]) -> list[Trained]:
    """Return the finished groups of a killed run; none if it was `made_by` others, or a file of them was changed."""
    path = folder / "finished.json"
    if not path.exists():
        return []
    try:
        before = read_sealed(path, "rpg zoo", Finished)
        if {"recipe": before.recipe, "base": before.base, "code": before.code} != made_by:
            raise UserError(f"{path}: params, code or base networks have changed since")
        for trained in before.finished:
            for checkpoint in trained.checkpoints:
                check_unchanged(folder, checkpoint.file, checkpoint.sha256, "trained", "`rpg zoo`")
    except UserError as error:
        print(f"zoo: starting over ({error})", file=sys.stderr, flush=True)
        return []
    return before.finished


def _train_group(
    task: Task, experiment: Experiment, group: list[Run], start: dict[int, StateDict | None], folder: Path
) -> Trained:
    """Train and save a group of networks; `diverged` maps each diverged seed to its substitute."""
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
        return Trained(
            checkpoints=[checkpoint for trained in alone for checkpoint in trained.checkpoints],
            tensors=alone[0].tensors,
            diverged=_diverged(alone),
        )
    for replaced in range(MAX_SUBSTITUTES + 1):
        substitute = seed + replaced * NEXT
        try:
            trained = _train(
                task, experiment, group, [run.model_copy(update={"seed": substitute}) for run in group], start, folder
            )
        except Diverged as error:
            if replaced == MAX_SUBSTITUTES:
                raise Diverged(f"{error}; seed {seed} and its other substitutes diverged, too") from error
            print(f"{error}; training seed {substitute + NEXT} in its place", file=sys.stderr, flush=True)
        else:
            break
    return trained.model_copy(update={"diverged": {str(seed): substitute} if replaced else {}})


def _train(
    task: Task,
    experiment: Experiment,
    group: list[Run],
    runs: list[Run],
    start: dict[int, StateDict | None],
    folder: Path,
) -> Trained:
    """Train `runs` and save them under the names of `group`; Diverged if a run diverges."""
    checkpoints: list[list[Checkpoint]] = [[] for _ in group]
    names: list[str] = []

    def save(step: int, state_dicts: list[StateDict]) -> None:
        for run, saved, state_dict in zip(group, checkpoints, state_dicts, strict=True):
            code = f"{run.code}-" if run.code else ""
            infinite = [
                name for name, value in state_dict.items() if value.is_floating_point() and not value.isfinite().all()
            ]
            # A mask of -inf is no divergence.
            if infinite and not task.buffers.issuperset(infinite):
                raise Diverged(
                    f"zoo: seed {run.seed} has weights of NaN or Inf at step {step}; lower its learning_rate"
                )
            path = task.write(folder / f"{run.seed:04d}-{code}{step:06d}", state_dict)
            names[:] = state_dict
            entry = {**file_entry(path, folder), "step": step}
            if experiment.task.has_score:
                entry[f"validation_{task.metric}"] = task.score(state_dict, "validation", run.code)
            entry |= task.facts(run, step)
            entry |= run.model_dump(exclude_none=True) | {"held_out": experiment.zoo.holds_out(run, step)}
            saved.append(Checkpoint.model_validate(entry))

    task.train(experiment.zoo, runs, [start[run.seed] for run in group], save)
    return Trained(
        checkpoints=[checkpoint for saved in checkpoints for checkpoint in saved], tensors=names, diverged={}
    )
