"""Download files from the Hugging Face hub at a fixed commit, because a name may refer to other files tomorrow."""

from rpg.utils.errors import UserError

# The cache holds a model's weights if it holds one of these files.
_CACHED = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_SECONDS = 10


def commit(key: str, repository: str, revision: str | None) -> str:
    """Return `revision`, the value of `key`; UserError with the command that prints the commit if it is missing."""
    if not revision:
        raise UserError(
            f"params.yaml: {key}: must be the commit of '{repository}' on the Hugging Face hub, 40 digits;"
            f" `hf models info {repository}` prints it as sha"
        )
    return revision


def timm_repository(network: str) -> str | None:
    """Return the hub repository of timm's weights for a network; None if there is none."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(network)
    repository: str | None = config.hf_hub_id if config else None
    return f"{repository}{network}" if repository and repository.endswith("/") else repository


def missing_on_hub(what: str, key: str, repository: str, revision_key: str, revision: str | None) -> list[str]:
    """Return one line if the hub can't deliver a model; otherwise no line.

    Raises UserError if params.yaml names no commit.
    """
    if on_hub(repository, commit(revision_key, repository, revision)):
        return []
    fetch = f"hf download {repository} --revision {revision}"
    return [
        f"{what}: not available from the Hugging Face hub; run `{fetch}` on a machine with internet access, or set"
        f" {key} to a local path"
    ]


def on_hub(repository: str, revision: str) -> bool:
    """Return whether a model is in this machine's hub cache or on the hub."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in _CACHED):
        return True
    try:
        HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS)
    except Exception:
        # No internet, no such model, no permission: several libraries raise a separate exception type for each.
        return False
    return True
