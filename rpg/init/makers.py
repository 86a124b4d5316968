"""Which tool wrote a checkpoint, by the traces that it leaves in the file or beside it."""

from pathlib import Path
from typing import Any

from rpg.tasks.adapters import CONFIG
from rpg.tasks.custom.reading import INDEX, LIGHTNING, checkpoint_tree
from rpg.utils.errors import UserError
from rpg.utils.files import read_json

# Files that a tool writes beside the weights → the tool, and the key of its version in one of them.
FOLDERS = {
    CONFIG: ("peft", "peft_version"),
    "trainer_state.json": ("transformers Trainer", ""),
    "config.json": ("transformers", "transformers_version"),
}
# Keys of a pickle that a tool's training state has.
TRAINING_STATES = {
    "timm": {"arch", "state_dict", "epoch", "version"},
    "mmengine": {"meta", "state_dict"},
    "torchvision's references": {"model", "optimizer", "lr_scheduler", "epoch"},
}
# Metadata of a safetensors file that begin with this text are those of kohya's scripts.
KOHYA = "ss_"


def maker(path: Path) -> str:
    """Return the tool that wrote the checkpoint `path`, a file or a folder, with the version if it says so."""
    folder = path if path.is_dir() else path.parent
    trial = next((one for one in (folder, *list(folder.parents)[:2]) if (one / "params.json").is_file()), None)
    if trial and ((trial / "progress.csv").is_file() or (trial / "result.json").is_file()):
        return "Ray Tune"
    if path.is_dir() or path.name.endswith(INDEX) or path.name.startswith(("model.safetensors", "pytorch_model.bin")):
        return " and ".join(_of_folder(folder)) or "folders with a state dict each"
    if path.suffix == ".safetensors":
        return _of_safetensors(path)
    return _of_pickle(checkpoint_tree(path))


def _of_folder(folder: Path) -> list[str]:
    found = []
    for name, (tool, key) in FOLDERS.items():
        if (folder / name).is_file():
            try:
                version = read_json(folder / name, tool).get(key, "") if key else ""
            except UserError:
                version = ""
            found.append(f"{tool} {version}".strip())
    if any(folder.glob("random_states_*.pkl")):
        found.append("accelerate")
    return found


def _of_safetensors(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        names = list(file.keys())
    if any(key.startswith(KOHYA) for key in metadata):
        return f"kohya's scripts {metadata.get('ss_sd_scripts_commit_hash', '')[:7]}".strip()
    if any(name.startswith(("unet.", "transformer.", "text_encoder.")) and ".lora" in name for name in names):
        return "diffusers, a LoRA"
    return "a state dict of safetensors" + (f" ({metadata['format']})" if "format" in metadata else "")


def _of_pickle(tree: Any) -> str:
    if not isinstance(tree, dict):
        return "torch.save"
    if LIGHTNING in tree:
        return f"Lightning {tree[LIGHTNING]}"
    for tool, keys in TRAINING_STATES.items():
        if keys <= tree.keys():
            meta = tree.get("meta")
            version = meta.get("mmengine_version", "") if isinstance(meta, dict) else ""
            return f"{tool} {version}".strip()
    if any(isinstance(value, dict) for value in tree.values()):
        return f"torch.save, a training state ({', '.join(map(str, tree))[:60]})"
    return "torch.save, a state dict"
