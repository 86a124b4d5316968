"""What an experiment needs that no layer makes: a data set, and networks that were trained elsewhere."""

from collections.abc import Collection
from pathlib import Path

from rpg.data import MADE_HERE, data_folder
from rpg.errors import UserError
from rpg.hub import commit, in_folder, timm_repository
from rpg.params import CommonsenseTask, CustomTask, Experiment, FineTuningTask, GivenZoo, PretrainedBase

# Any of them tells that a model's weights are in the hub's cache.
_CACHED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_SECONDS = 10


# The layers that read data, or what was trained elsewhere.
LAYERS = ("base", "zoo", "tune", "hypernetwork", "score", "novelty")


def missing(experiment: Experiment, data_root: str | None, layers: Collection[str] = LAYERS) -> list[str]:
    """One line for each thing that these layers need and that is not there, with what to do about it."""
    task, lines = experiment.task, []
    if isinstance(task, CustomTask):
        runs = experiment.zoo.runs if isinstance(experiment.zoo, GivenZoo) and "zoo" in layers else []
        return [f"{run}: no such checkpoints; zoo.runs names them" for run in runs if not Path(run).exists()]
    if task.data not in MADE_HERE:
        try:
            data_folder(task.data, data_root)
        except UserError as error:
            lines.append(str(error))
    try:
        if "base" in layers and isinstance(experiment.base, PretrainedBase) and isinstance(task, FineTuningTask):
            lines += _weights(experiment.base, task.network.name)
        if isinstance(task, CommonsenseTask) and not in_folder(task):
            lines += _on_hub(f"language model '{task.model}'", "task.model", task.model, "task.revision", task.revision)
    except UserError as error:
        lines.append(str(error))
    return lines


def _weights(base: PretrainedBase, network: str) -> list[str]:
    if base.weights != "timm":
        return [] if Path(base.weights).is_file() else [f"{base.weights}: no such file; base.weights names it"]
    what, repository = f"weights of timm's '{network}'", timm_repository(network)
    if not repository:
        return [f"{what}: not on the Hugging Face hub; name a file in base.weights"]
    return _on_hub(what, "base.weights", repository, "base.revision", base.revision)


def _on_hub(what: str, key: str, repository: str, revision_key: str, revision: str | None) -> list[str]:
    """A line if a model is not to be had from the hub, or if params.yaml does not say which commit of it."""
    if on_hub(repository, commit(revision_key, repository, revision)):
        return []
    fetch = f"hf download {repository} --revision {revision}"
    return [
        f"{what}: not to be had from the Hugging Face hub; fetch it with `{fetch}` where there is a network, or name"
        f" what lies here in {key}"
    ]


def on_hub(repository: str, revision: str) -> bool:
    """Whether a model is in the Hugging Face hub's cache of this machine, or can be asked for."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in _CACHED):
        return True
    try:
        HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS)
    except Exception:
        # No network, no such model, no permission: each has a type of its own, of several libraries.
        return False
    return True
