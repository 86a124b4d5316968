"""Train one shard of the zoo: `rpg zoo --experiment digits-resnet --shard 0000-0003`.

Writes zoo/<shard>/<seed>-<step>.safetensors, or <seed>-<code>-<step>.safetensors where there are task codes, and,
last, zoo/<shard>/manifest.json, which lists them.
"""

from itertools import groupby
from pathlib import Path

from rpg.base import fingerprint, read_base
from rpg.files import clear, exclusive, file_entry, write_json
from rpg.params import Experiment, Run
from rpg.progress import progress
from rpg.tasks import load_task
from rpg.tasks.stack import StateDict


def train_shard(experiment: Experiment, runs: list[Run], folder: Path, base: Path, data_root: str | None) -> None:
    """Train the networks of `runs` and save the last states of each into `folder`; they start from those in `base`."""
    task = load_task(experiment.task, data_root)
    task.check()
    start = {seed: read_base(experiment, base, seed) for seed in {run.seed for run in runs}}
    groups = [
        group
        for _, of_seed in groupby(runs, key=lambda run: run.seed)
        for group in _parts(list(of_seed), experiment.zoo.together)
    ]
    checkpoints = []
    with exclusive(folder):
        clear(folder)
        names: list[str] = []
        for group in progress(groups, "zoo", total=len(groups)):

            def save(step: int, state_dicts: list[StateDict], group: list[Run] = group) -> None:
                for run, state_dict in zip(group, state_dicts, strict=True):
                    code = f"{run.code}-" if run.code else ""
                    path = task.write(folder / f"{run.seed:04d}-{code}{step:06d}", state_dict)
                    names[:] = state_dict
                    score = task.score(state_dict, "validation", run.code)
                    entry = {**file_entry(path, folder), "step": step, f"validation_{task.metric}": score}
                    checkpoints.append({**entry, **run.model_dump(exclude_none=True)})

            task.train(experiment.zoo, group, start[group[0].seed], save)
        # safetensors sorts tensors by itself; tokens follow the state dict's order, so it is kept here.
        manifest = {"checkpoints": checkpoints, "recipe": experiment.recipe(runs), "tensors": names}
        write_json(folder / "manifest.json", {**manifest, "base": fingerprint(experiment, base)})


def _parts(runs: list[Run], most: int) -> list[list[Run]]:
    return [runs[start : start + most] for start in range(0, len(runs), most)]
