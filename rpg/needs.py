"""What an experiment needs that no layer makes: a data set, and networks that were trained elsewhere."""

from collections.abc import Collection
from pathlib import Path

from rpg.data import MADE_HERE, data_folder
from rpg.errors import UserError
from rpg.params import CommonsenseTask, CustomTask, Experiment, FineTuningTask, GivenZoo, PretrainedBase
from rpg.paths import RESULTS

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
    if "base" in layers and isinstance(experiment.base, PretrainedBase) and isinstance(task, FineTuningTask):
        lines += _weights(experiment.base.weights, task.network.name)
    if isinstance(task, CommonsenseTask) and not _has(task):
        lines.append(
            f"language model '{task.model}': no folder, nor to be had from the Hugging Face hub; fetch it with"
            f" `hf download {task.model}` where there is a network, or name its folder in task.model"
        )
    return lines


def _has(task: CommonsenseTask) -> bool:
    folder = Path(task.model)
    return folder.is_relative_to(RESULTS) or folder.is_dir() or on_hub(task.model, task.revision)


def _weights(weights: str, network: str) -> list[str]:
    if weights != "timm":
        return [] if Path(weights).is_file() else [f"{weights}: no such file; base.weights names it"]
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(network)
    repository = config.hf_hub_id if config else None
    if repository and repository.endswith("/"):
        repository += network
    if repository and on_hub(repository, None):
        return []
    fetch = f"fetch them with `hf download {repository}` where there is a network, or " if repository else ""
    return [
        f"weights of timm's '{network}': not to be had from the Hugging Face hub; {fetch}name a file in base.weights"
    ]


def on_hub(repository: str, revision: str | None) -> bool:
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
