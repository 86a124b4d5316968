"""Read the weights of a checkpoint as libraries write it: within a training state, with prefixes, in several files.

No code of a file runs: pickles are read with `weights_only=True`, and the records that some libraries keep beside the
weights become empty objects of the class `Inert`.
"""

import hashlib
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rpg.tasks.stack import StateDict
from rpg.utils.errors import UserError
from rpg.utils.files import check_plain, is_state_dict, load_pickle, load_safetensors, read_json, read_tensors

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
# transformers' and accelerate's index of the files that hold a network's tensors, and the names of such files.
INDEX = (".safetensors.index.json", ".bin.index.json")
PART = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
# Files that transformers' Trainer and accelerate write beside the weights.
OTHER_STATE = re.compile(r"optimizer(_\d+)?|scheduler(_\d+)?|scaler|rng_state(_\d+)?|training_args|random_states_\d+")
# Below this cosine, the weights of two checkpoints are as different as those of two random starts.
LIKE_ANOTHER_RUN = 0.3
# Names of averaged weights.
AVERAGE = re.compile(r"(^|[._-])(ema|swa|averaged?|shadow)([._-]|$)", re.I)
# Parts of names by which wrappers inside a network tell that they wrap a module. torch 2.11.0.
INNER = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The number of networks in the mean of torch's AveragedModel.
COUNT = "n_averaged"
# The end of a mask's name that torch's prune gives it.
MASK = "_mask"
LIGHTNING = "pytorch-lightning_version"
# Records beside the weights: timm's and other tools' options, paths, Lightning's hyperparameters, mmengine's log of
# numbers, which names its functions by `getattr`, and NumPy's numbers.
RECORDS = (
    "argparse.Namespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "getattr",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


class Inert:
    """An empty object in place of a record, whatever its class and content."""

    def __new__(cls, *arguments: Any) -> "Inert":
        """Return an empty object."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class SeveralNetworks(UserError):
    """A checkpoint holds several networks that fit, of which zoo.weights must name one."""


@dataclass
class Place:
    """The place of a network's tensors in a checkpoint, by which a writer puts other tensors there."""

    # The content of the file; the tensors of all files for an index.
    content: dict[str, Any]
    # The state dict with the network's tensors: `content` itself, or a dictionary within it under `key`.
    state_dict: dict[str, Tensor]
    key: str | None = None
    # State dicts in the content that were not chosen, by their keys.
    others: dict[str, StateDict] = field(default_factory=dict)
    # The network's name of a tensor → its name in the state dict.
    names: dict[str, str] = field(default_factory=dict)
    # What the names in the state dict have before and within the network's names.
    prefix: str = ""
    inner: tuple[str, ...] = ()
    # For an index, the name of a tensor → its file.
    files: dict[str, str] = field(default_factory=dict)


def holds_record(tree: Any) -> bool:
    """Return whether a value of a checkpoint is a record, or has one in its lists and dictionaries."""
    if isinstance(tree, dict | list | tuple):
        return any(map(holds_record, tree.values() if isinstance(tree, dict) else tree))
    return isinstance(tree, Inert)


@dataclass
class Found:
    """The weights of a checkpoint, `notes` on what was chosen and removed, and the place of the weights."""

    tensors: StateDict
    place: Place
    notes: list[str] = field(default_factory=list)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file may hold a network, by its name: a part of an indexed checkpoint does not count."""
    if not path.is_file():
        return False
    if path.name.endswith(INDEX):
        return True
    part = PART.fullmatch(path.name) and any(path.parent.glob("*.index.json"))
    return path.name.endswith(SUFFIXES) and not part and not OTHER_STATE.fullmatch(path.stem)


def check_distributed(run: Path) -> None:
    """Raise UserError if a run has a folder of torch.distributed.checkpoint that is not converted yet.

    Its index, the file .metadata, is a pickle that torch 2.11.0 can't read with `weights_only=True`.
    """
    for index in sorted(run.rglob(".metadata")):
        folder = index.parent
        converted = folder.with_name(f"{folder.name}.pth")
        if any(folder.glob("*.distcp")) and not converted.exists() and not OTHER_STATE.fullmatch(folder.name):
            command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} {converted}"
            raise UserError(f"{folder}: only code can read a torch.distributed.checkpoint; convert it by `{command}`")


def read_weights(path: Path, own: Collection[str] | None, choice: str | None = None) -> Found:
    """Return the weights in the checkpoint `path` of a network whose tensors have the names `own`.

    None stands for a network whose names are unknown: only the prefixes of torch's own wrappers are removed then.
    `choice` is a key of the checkpoint, or a prefix of names with its dot, for checkpoints that hold several networks.
    Raises UserError if the file can't be read, or if none of its state dicts is obviously the network's.
    """
    if path.name.endswith(INDEX):
        return _without_prefix(path, _by_index(path), own, choice, False)
    tree = checkpoint_tree(path)
    prefix = choice if choice and choice.endswith(".") else None
    found = _unwrapped(path, tree, own, None if prefix else choice)
    found.tensors = _whole(path, found.tensors)
    check_plain(path, found.tensors)
    return _without_prefix(path, found, own, prefix, isinstance(tree, dict) and LIGHTNING in tree)


def checkpoint_tree(path: Path) -> Any:
    """Return the whole content of a checkpoint's file; UserError if it can't be read."""
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    with torch.serialization.safe_globals([(Inert, name) for name in RECORDS]):
        return load_pickle(path)


def _by_index(path: Path) -> Found:
    """Return the tensors of the files in an index."""
    files = read_json(path, "save_pretrained").get("weight_map")
    if not isinstance(files, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in files.values()
    ):
        raise UserError(f"{path}: has no weight_map from tensors to files of its folder; save the checkpoint again")
    parts = {file: read_tensors(path.with_name(file)) for file in sorted(set(files.values()))}
    for name, file in files.items():
        if name not in parts[file]:
            raise UserError(f"{path}: tensor '{name}' is not in {file}; save the checkpoint again")
    tensors = {name: parts[file][name] for name, file in files.items()}
    return Found(tensors, Place(tensors, tensors, files=files), [f"{len(parts)} files by {path.name}"])


def _unwrapped(path: Path, tree: Any, own: Collection[str] | None, choice: str | None) -> Found:
    """Return the network's state dict within the content `tree` of a checkpoint."""
    inner = {} if is_state_dict(tree) else _state_dicts(tree)
    if choice is not None and choice not in inner:
        there = f"its state dicts are {_listed(inner)}" if inner else "it is a state dict itself or has none"
        raise UserError(f"{path}: has no '{choice}', as zoo.weights asks; {there}")
    if is_state_dict(tree):
        return Found(tree, Place(tree, tree))
    if not inner:
        holds = f", but {', '.join(map(str, tree))[:60]}" if isinstance(tree, dict) else ""
        raise UserError(f"{path}: not a state dict (names to tensors){holds}; save `model.state_dict()` alone")
    if own is None:
        # The largest state dicts are networks, whatever their names.
        most = max(map(len, inner.values()))
        own = next(list(tensors) for tensors in inner.values() if len(tensors) == most)
    hits = {key: max(hits_by_prefix(tensors, own).values()) for key, tensors in inner.items()}
    # A record of tensors, such as a callback's, has none of the network's names.
    networks = [key for key in inner if hits[key]] or list(inner)
    key = choice or _network_of({key: hits[key] for key in networks}, len(own))
    if key is None:
        raise SeveralNetworks(f"{path}: holds several state dicts; name one in zoo.weights: {_listed(networks)}")
    others = [name for name in networks if name != key]
    left = f"; {_listed(others)} left out, which zoo.weights can choose" if others else ""
    place = Place(tree, inner[key], key, {name: inner[name] for name in others})
    return Found(inner[key], place, [f"the checkpoint's '{key}'{left}"])


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in list(names)[:6])


def _state_dicts(tree: Any, depth: int = 2) -> dict[str, StateDict]:
    """Return the state dicts within a dictionary, by their keys; those of an inner dictionary are joined by a dot."""
    found: dict[str, StateDict] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(key, str) and value and is_state_dict(value):
            found[key] = value
        elif isinstance(key, str) and depth > 1:
            found |= {f"{key}.{name}": inner for name, inner in _state_dicts(value, depth - 1).items()}
    return found


def _network_of(hits: Mapping[str, int], count: int) -> str | None:
    """Return the key of the state dict that is obviously the network's; None if there is none.

    `hits` maps keys to how many of the network's `count` tensors are there. The state dict has all of them or is the
    only one. It comes before its moving average.
    """
    fitting = [key for key in hits if hits[key] == count] or list(hits)
    plain = [key for key in fitting if not AVERAGE.search(key)] or fitting
    return plain[0] if len(plain) == 1 else None


def hits_by_prefix(names: Collection[str], own: Collection[str]) -> dict[str, int]:
    """Return prefix → how many tensors of the network are in `names` under it."""
    known = {INNER.sub("", name) for name in names} | set(names)
    if set(own) <= known:
        return {"": len(own)}
    prefixes = {name[: dot.end()]: None for name in known for dot in re.finditer(r"\.", name)}
    return {prefix: sum(prefix + name in known for name in own) for prefix in ("", *sorted(prefixes))}


def _without_prefix(path: Path, found: Found, own: Collection[str] | None, choice: str | None, loose: bool) -> Found:
    """Return the tensors without the prefix that wrappers of the network put before all names.

    With `loose`, names without the prefix are left out: Lightning's module may have other attributes than the network.
    """
    names, inner, notes = {name: name for name in found.tensors}, (), list(found.notes)
    if own is None:
        own, loose = _plain_names(names), False
    if not set(own) <= names.keys():
        short = {INNER.sub("", name): name for name in names}
        if len(short) == len(names) and short.keys() != names.keys():
            inner = tuple(dict.fromkeys(part for name in names for part in INNER.findall(name)))
            notes.append(f"without '{', '.join(inner)}' in the names")
            names = short
    if COUNT in names and COUNT not in own and all(name.startswith("module.") for name in names if name != COUNT):
        notes.append(f"without {COUNT}")
        del names[COUNT]
    prefix = choice or _prefix(path, names, own, loose)
    if choice and not any(name.startswith(choice) for name in names):
        raise UserError(f"{path}: no name begins with '{choice}', as zoo.weights asks; correct or remove the key")
    if prefix:
        left = [name for name in names if not name.startswith(prefix)]
        names = {name[len(prefix) :]: of for name, of in names.items() if name.startswith(prefix)}
        more = f"; {_listed(left)} left out" if left else ""
        notes.append(f"without the prefix '{prefix}' of the names{more}")
    place = replace(found.place, names=names, prefix=prefix, inner=inner)
    return Found({name: found.tensors[of] for name, of in names.items()}, place, notes)


def _plain_names(names: Collection[str]) -> list[str]:
    """Return the names that a network's tensors have without the wrappers DistributedDataParallel and torch.compile."""
    plain = [INNER.sub("", name) for name in names if name != COUNT]
    wrapped = plain and all(name.startswith("module.") for name in plain)
    return [name.removeprefix("module.") for name in plain] if wrapped else plain if COUNT not in names else list(names)


def _prefix(path: Path, names: Collection[str], own: Collection[str], loose: bool) -> str:
    """Return the prefix under which most of the network's tensors are; empty if none is better than none."""
    hits = hits_by_prefix(names, own)
    if not loose:
        hits = {prefix: count for prefix, count in hits.items() if all(name.startswith(prefix) for name in names)}
    most = max(hits.values())
    if most == hits.get("", 0):
        return ""
    best = [prefix for prefix, count in hits.items() if count == most]
    plain = [prefix for prefix in best if not AVERAGE.search(prefix)] or best
    if len(plain) > 1:
        raise SeveralNetworks(f"{path}: several networks fit; name the prefix of one in zoo.weights: {_listed(plain)}")
    return plain[0]


def _whole(path: Path, tensors: StateDict) -> StateDict:
    """Return the tensors with DTensors as plain ones; UserError if this process has a part of one only."""
    # A DTensor exists only if its module is imported.
    distributed: Any = sys.modules.get("torch.distributed.tensor")
    kind = getattr(distributed, "DTensor", ())
    whole = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, kind):
            local = tensor.to_local()
            if local.shape != tensor.shape or any(placement.is_partial() for placement in tensor.placements):
                remedy = "save full tensors, by get_model_state_dict with StateDictOptions(full_state_dict=True)"
                raise UserError(f"{path}: tensor '{name}' is one process's part of a DTensor; {remedy}")
            tensor = local
        whole[name] = tensor
    return whole


def as_torch_loads(network: nn.Module, tensors: StateDict, buffers: Collection[str]) -> StateDict | None:
    """Return the state dict of `network` after `load_state_dict(tensors)`; None if torch does not load them.

    torch's modules turn names and shapes of earlier versions into theirs, and observers take the shape of the file. A
    weight that neither the file nor a module gives makes the result None; `buffers` are no weights.
    """
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if name not in tensors}
    try:
        network.load_state_dict(dict(tensors))
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        return None
    after = network.state_dict()
    for name, tensor in before.items():
        kept = name in after and torch.equal(tensor, after[name])
        if kept and tensor.is_floating_point() and name not in buffers:
            return None
    return after


def is_of_transformers(network: nn.Module) -> bool:
    """Return whether a network is a model of transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(network, transformers.PreTrainedModel)


def as_transformers_loads(network: Any, tensors: StateDict) -> StateDict | None:
    """Return the state dict of a model of transformers that holds `tensors`, under the names of its files.

    Some models' files have other names than the model: Mixtral's have a matrix per expert (transformers 5.23.0). None
    if a tensor is missing or left over.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    kind = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    try:
        model, told = type(network).from_pretrained(
            None,
            config=network.config,
            state_dict=dict(tensors),
            dtype=kind,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (RuntimeError, KeyError, ValueError, TypeError, OSError):
        return None
    finally:
        if shown:
            logging.enable_progress_bar()
    return None if any(told.values()) else dict(model.state_dict())


@dataclass
class ReadRun:
    """The checkpoints of the run `name` that were read: `names` maps the digest of each to its name."""

    name: str
    names: dict[str, str] = field(default_factory=dict)
    # Path of a checkpoint that was left out → the name of the one that it equals.
    copies: dict[str, str] = field(default_factory=dict)
    dtypes: set[str] = field(default_factory=set)
    # What was chosen from the files, and removed from their names, in order.
    notes: dict[str, None] = field(default_factory=dict)
    # Of each checkpoint with masks of torch's prune, the share of zeros in them.
    sparsity: list[float] = field(default_factory=list)
    # The cosine of each checkpoint and the one before it.
    likeness: list[float] = field(default_factory=list)
    last: StateDict | None = None

    def is_new(self, path: Path, state_dict: StateDict) -> bool:
        """Note a checkpoint; return False if it equals an earlier one."""
        digest = _digest(state_dict)
        if digest in self.names:
            self.copies[str(path)] = self.names[digest]
            return False
        if self.last:
            self.likeness.append(cosine(self.last, state_dict))
        self.last = state_dict
        within = path.is_relative_to(self.name) and path != Path(self.name)
        self.names[digest] = str(path.relative_to(self.name) if within else path)
        self.dtypes |= {str(tensor.dtype).removeprefix("torch.") for tensor in state_dict.values()}
        masks = [tensor for name, tensor in state_dict.items() if name.endswith(MASK)]
        if masks:
            self.sparsity.append(sum(int((mask == 0).sum()) for mask in masks) / sum(mask.numel() for mask in masks))
        return True

    @property
    def is_unlike(self) -> bool:
        """Whether the checkpoints do not look like those of one run."""
        return bool(self.likeness) and max(self.likeness) < LIKE_ANOTHER_RUN

    def report(self) -> None:
        """Print what was read, and warn if the checkpoints do not look like those of one run."""
        self.last = None
        for path, name in self.copies.items():
            print(f"zoo: {path} is left out, because it is the same as {name}", flush=True)
        if self.notes:
            print(f"zoo: {self.name}: read {'; '.join(self.notes)}", flush=True)
        print(f"zoo: {self.name}: {len(self.names)} checkpoints: {', '.join(self.names.values())}", flush=True)
        if self.sparsity:
            zeros = f"{100 * min(self.sparsity):.1f} to {100 * max(self.sparsity):.1f} % of the masked weights are zero"
            print(f"zoo: {self.name}: {zeros}", flush=True)
        if self.is_unlike:
            why = f"differ as much as separate training runs (cosine of the weights at most {max(self.likeness):.2f})"
            print(f"zoo: {self.name}: its checkpoints {why}; if they are, list each in zoo.runs", file=sys.stderr)


def cosine(a: StateDict, b: StateDict) -> float:
    """Return the cosine of two networks' matrices and kernels, which start from random numbers.

    All tensors count if there are no matrices, as in a network that is one row of numbers.
    """
    floats = [name for name, tensor in a.items() if tensor.is_floating_point()]
    names = [name for name in floats if a[name].ndim > 1] or floats
    products = torch.zeros(3, dtype=torch.float64)
    for one, other in ((a[name].double().flatten(), b[name].double().flatten()) for name in names):
        products += torch.stack([one @ other, one @ one, other @ other])
    together, *own = products.tolist()
    return together / math.sqrt(math.prod(own)) if all(own) else 1.0


def _digest(state_dict: StateDict) -> str:
    """Return a digest of all values, in the state dict's order."""
    digest = hashlib.sha256()
    for tensor in state_dict.values():
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
