"""Train one shard of the zoo: `rpg zoo --experiment digits-resnet --shard 0000-0003`.

Writes zoo/<shard>/<seed>-<step>.safetensors and, last, zoo/<shard>/manifest.json, which lists them.
"""

from pathlib import Path

from rpg.files import clear, exclusive, file_entry, write_json, write_tensors
from rpg.params import Experiment
from rpg.tasks import load_task


def train_shard(experiment: Experiment, seeds: list[int], folder: Path, data_root: str | None) -> None:
    """Train the networks of `seeds` one after another and save the last states of each into `folder`."""
    task = load_task(experiment.task, data_root)
    task.check()
    checkpoints = []
    with exclusive(folder):
        clear(folder)
        names: list[str] = []
        for seed in seeds:
            for step, state_dict in task.train(experiment.zoo, seed):
                path = folder / f"{seed:04d}-{step:06d}.safetensors"
                write_tensors(path, state_dict)
                names = list(state_dict)
                checkpoints.append(
                    {
                        **file_entry(path),
                        "seed": seed,
                        "step": step,
                        f"validation_{task.metric}": task.score(state_dict, "validation"),
                    }
                )
        # safetensors sorts tensors by itself; tokens follow the state dict's order, so it is kept here.
        manifest = {"checkpoints": checkpoints, "recipe": experiment.recipe(seeds), "tensors": names}
        write_json(folder / "manifest.json", manifest)
