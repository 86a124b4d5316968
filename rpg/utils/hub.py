"""Files from the Hugging Face hub, always by a commit: a name alone stands for other files tomorrow."""

from rpg.utils.errors import UserError

# A model's weights are in the hub's cache if one of these files is.
_CACHED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_SECONDS = 10


def commit(key: str, repository: str, revision: str | None) -> str:
    """`revision`, the value of `key`; UserError if there is none, with the command that finds one."""
    if not revision:
        raise UserError(
            f"params.yaml: {key}: must be the commit of '{repository}' on the Hugging Face hub, 40 digits;"
            f" `hf models info {repository}` prints it as sha"
        )
    return revision


def timm_repository(network: str) -> str | None:
    """The repository on the hub that has timm's weights of a network; None if there is none."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(network)
    repository: str | None = config.hf_hub_id if config else None
    return f"{repository}{network}" if repository and repository.endswith("/") else repository


def missing_on_hub(what: str, key: str, repository: str, revision_key: str, revision: str | None) -> list[str]:
    """One line if a model can't be fetched from the hub; otherwise none.

    Raises UserError if params.yaml names no commit of it.
    """
    if on_hub(repository, commit(revision_key, repository, revision)):
        return []
    fetch = f"hf download {repository} --revision {revision}"
    return [
        f"{what}: not to be had from the Hugging Face hub; fetch it with `{fetch}` where there is a network, or name"
        f" what lies here in {key}"
    ]


def on_hub(repository: str, revision: str) -> bool:
    """Whether a model is in the hub's cache of this machine, or the hub has it."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in _CACHED):
        return True
    try:
        HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS)
    except Exception:
        # No network, no such model, no permission: each has an exception type of its own, from several libraries.
        return False
    return True
