"""What is fetched from the Hugging Face hub: by a commit, since a name alone stands for other files tomorrow."""

from pathlib import Path

from rpg.errors import UserError
from rpg.params import PARAMS_FILE, CommonsenseTask
from rpg.paths import RESULTS


def commit(key: str, repository: str, revision: str | None) -> str:
    """`revision`, the value of `key`; UserError if there is none, with the command that finds one."""
    if not revision:
        raise UserError(
            f"{PARAMS_FILE}: {key}: must be the commit of '{repository}' on the Hugging Face hub, 40 digits;"
            f" `hf models info {repository}` tells it as sha"
        )
    return revision


def in_folder(task: CommonsenseTask) -> bool:
    """Whether the language model is a folder, or will be one; UserError if that has a commit, too."""
    folder = Path(task.model)
    found = folder.is_relative_to(RESULTS) or folder.is_dir()
    if found and task.revision:
        raise UserError(f"{PARAMS_FILE}: task.revision: must be null; task.model '{task.model}' is a folder")
    return found


def timm_repository(network: str) -> str | None:
    """Where timm has the weights of a network on the hub; None if nowhere."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(network)
    repository: str | None = config.hf_hub_id if config else None
    return f"{repository}{network}" if repository and repository.endswith("/") else repository
