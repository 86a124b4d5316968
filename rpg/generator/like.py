"""A generated network in the form of a checkpoint of its zoo: `rpg export --like CHECKPOINT`.

The tool that wrote the checkpoint opens the result. Key, prefix, names, files and types of numbers are those of the
checkpoint, and the numbers are those of the sample. States of the training and further networks are left out, since the
sample has none.
"""

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rpg.generator.export import write_pickle
from rpg.tasks.adapters import CONFIG, WEIGHTS, difference, read_adapter_config
from rpg.tasks.custom.reading import (
    AVERAGE,
    INDEX,
    INNER,
    SUFFIXES,
    Place,
    SeveralNetworks,
    hits_by_prefix,
    holds_record,
    is_checkpoint,
    read_weights,
)
from rpg.tasks.custom.task import COUNTER, OLD_WEIGHTS
from rpg.tasks.stack import StateDict, mismatch
from rpg.utils.errors import UserError, counted, one_line
from rpg.utils.files import atomic, read_json, read_tensors, write_tensors

# Files beside a network's weights that its library reads: configurations and tokenizers.
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "tokenizer*")
# Keys of the states of torch's optimizers, schedulers and gradient scalers. torch 2.11.0.
TRAINING_KEYS = frozenset({"param_groups", "_step_count", "growth_factor"})
# Names of the states of optimizers and schedulers.
TRAINING = re.compile(r"optim|sched", re.I)
RECORD, NETWORK = "a record", "another network"


@dataclass
class Rest:
    """The content of a checkpoint beside the network: the names that are kept, and those left out with the reason."""

    kept: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        left = [f"{name} ({why})" if why else name for name, why in self.left.items()]
        parts = (("kept", self.kept), ("left out", left))
        return "".join(f"; {what}: {_listed(names)}" for what, names in parts if names)


def export_like(checkpoint: Path, weights: Path, out: Path, choice: str | None = None) -> str:
    """Write the network in `weights` to `out` in the form of a checkpoint; return a line that says so.

    `checkpoint` and `out` are files with the same suffix, or folders; `weights` is a state dict or an adapter's folder.
    `choice` is the experiment's zoo.weights, for a checkpoint of several networks. Raises UserError if a file can't be
    read, if the names, shapes or numbers of the sample do not fit the checkpoint, and for another kind of `out`.
    """
    file = _network_file(checkpoint)
    _check_out(out, checkpoint, weights)
    _check_adapter(checkpoint / CONFIG, weights / CONFIG)
    sample = read_tensors(weights / WEIGHTS if weights.is_dir() else weights)
    own = _own(sample)
    try:
        found = read_weights(file, own, choice)
    except SeveralNetworks as error:
        raise UserError(f"{error}; then add --experiment NAME") from error
    tensors = _fitted(sample, found.tensors, weights, checkpoint)
    place, rest = found.place, Rest()
    put = _shared({place.names[name]: tensor for name, tensor in tensors.items()}, place.state_dict)
    content = _content(place, put, own, rest)
    if checkpoint.is_dir():
        parts = {name: [of for of, file in place.files.items() if file == name] for name in place.files.values()}
        _write_folder(out, checkpoint, content, parts or {file.name: list(content)}, rest)
    else:
        _write(out, content, file)
    return one_line(f"{out}: {counted(len(put), 'tensor')} {_form(place, checkpoint)}{rest}")


def _form(place: Place, checkpoint: Path) -> str:
    """Return the form of a checkpoint, in words."""
    form = f"as the '{place.key}' of {checkpoint}" if place.key else f"in the form of {checkpoint}"
    form += f", prefix '{place.prefix}'" if place.prefix else ""
    form += f", with '{', '.join(place.inner)}' in the names" if place.inner else ""
    return form + (f", in {len(set(place.files.values()))} files" if place.files else "")


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(list(names)[:8]) + more


def _network_file(checkpoint: Path) -> Path:
    """Return the file, or the index of files, with the network of a checkpoint; UserError if there is not one."""
    if checkpoint.name.endswith(INDEX):
        raise UserError(f"--like {checkpoint}: lists further files; name its folder {checkpoint.parent}")
    if checkpoint.is_file():
        if not checkpoint.name.endswith(SUFFIXES):
            raise UserError(f"--like {checkpoint}: unknown kind of checkpoint; use {', '.join(SUFFIXES)} or a folder")
        return checkpoint
    if not checkpoint.is_dir():
        raise UserError(f"--like {checkpoint}: no such file or folder")
    names = (WEIGHTS, OLD_WEIGHTS) if (checkpoint / CONFIG).is_file() else ()
    files = [checkpoint / name for name in names if (checkpoint / name).is_file()][:1]
    files = files or [path for path in checkpoint.iterdir() if is_checkpoint(path)]
    if len(files) == 1:
        return files[0]
    holds = f"holds several checkpoints: {_listed(sorted(path.name for path in files))}; name one of them"
    if not files:
        below = sorted(path for path in checkpoint.iterdir() if path.is_dir())
        holds = "holds no checkpoint; name " + (f"a folder within it, such as {below[-1]}" if below else "a file")
    raise UserError(f"--like {checkpoint}: {holds}")


def _check_out(out: Path, checkpoint: Path, weights: Path) -> None:
    """Raise UserError unless `out` is of the checkpoint's kind, and neither the checkpoint nor the sample."""
    kind = "folder"
    if checkpoint.is_dir():
        if out.is_file() or out.name.endswith(SUFFIXES):
            raise UserError(f"--out {out}: must be a folder, as {checkpoint} is")
    else:
        kind = "file"
        suffix = max((suffix for suffix in SUFFIXES if checkpoint.name.endswith(suffix)), key=len)
        if out.is_dir() or not out.name.endswith(suffix):
            raise UserError(f"--out {out}: must be a file {suffix}, as {checkpoint} is")
    # Links lead to the same file.
    written = out.resolve()
    if written.is_relative_to(checkpoint.resolve()) or (out.exists() and out.samefile(checkpoint)):
        raise UserError(f"--out {out}: is the checkpoint of --like; name a new {kind}")
    if weights.resolve().is_relative_to(written):
        raise UserError(f"--out {out}: is the network of --weights; name a new {kind}")


def _check_adapter(config: Path, sample: Path) -> None:
    """Raise UserError if the configurations of two adapters make other functions of equal weights."""
    if not (config.is_file() and sample.is_file()):
        return
    tree = read_json(config, "PeftModel.save_pretrained")
    if why := difference(tree, read_adapter_config(sample), str(sample)):
        raise UserError(f"{config}: {why}")


def _write_folder(
    out: Path, checkpoint: Path, content: dict[str, Any], parts: dict[str, list[str]], rest: Rest
) -> None:
    """Write a folder with the weights and the configurations of a checkpoint; note its other files in `rest`.

    `parts` maps the files of weights to the keys of `content` in them. Raises UserError if `out` has other files, which
    a library may prefer.
    """
    copied = []
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in COPIED):
            copied.append(path.name)
        elif path.name not in parts:
            rest.left[path.name + "/" * path.is_dir()] = ""
    there = sorted(path.name for path in out.iterdir() if path.name[0] != ".") if out.is_dir() else []
    if strange := next((name for name in there if name not in {*copied, *parts}), None):
        raise UserError(f"--out {out}: has {strange}, which is not among the files to write; name a new folder")
    for name in copied:
        with atomic(out / name) as temporary:
            shutil.copyfile(checkpoint / name, temporary)
    for name, keys in parts.items():
        # A file of all keys stays of the class of its content.
        part = content if len(keys) == len(content) else {key: content[key] for key in keys}
        _write(out / name, part, checkpoint / name)


def _same(tensors: StateDict) -> dict[str, list[str]]:
    """Return each name → the names of all tensors with the same numbers, such as those of tied weights.

    Tensors with a single value are alike in any network, and left out.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in tensors.items():
        numbers = tensor.detach().contiguous().reshape(-1)
        if len(numbers) and not (numbers == numbers[0]).all():
            digest = hashlib.sha256(numbers.view(torch.uint8).numpy().data).digest()
            groups.setdefault((tensor.dtype, tensor.shape, digest), []).append(name)
    return {name: names for names in groups.values() if len(names) > 1 for name in names}


def _own(sample: StateDict) -> list[str]:
    """Return the names by which the network is found: a file may lack tied tensors and BatchNorm's counters."""
    same = _same(sample)
    return [name for name in sample if name not in same and not name.endswith(COUNTER)] or list(sample)


def _fitted(sample: StateDict, given: StateDict, weights: Path, checkpoint: Path) -> StateDict:
    """Return the sample with the names, order and types of the checkpoint's tensors `given`.

    Of tied tensors, the checkpoint may have one name and the sample both, or the other way round.
    """
    same = _same(given)
    full = dict(sample)
    for name in given.keys() - sample.keys():
        tied = next((other for other in same.get(name, ()) if other in sample), None)
        full |= {name: sample[tied].clone()} if tied else {}
    twice = _same(sample)
    more = [
        name
        for name in sample.keys() - given.keys()
        if not name.endswith(COUNTER) and not any(other in given for other in twice.get(name, ()))
    ]
    why = mismatch({name: full[name] for name in given if name in full}, given)
    if not why and more:
        why = f"tensor '{min(more)}' is not in the checkpoint"
    if why:
        raise UserError(
            f"{weights}: does not fit {checkpoint}: {why}; give --like a checkpoint with the sample's names and shapes"
        )
    return {name: _cast(name, full[name], tensor.dtype, weights, checkpoint) for name, tensor in given.items()}


def _cast(name: str, tensor: Tensor, dtype: torch.dtype, weights: Path, checkpoint: Path) -> Tensor:
    """Return a tensor in another type; UserError if that type can't hold the numbers, apart from rounding."""
    made = tensor.to(dtype)
    whole = not (tensor.is_floating_point() and dtype.is_floating_point)
    lost = not torch.equal(made.to(tensor.dtype), tensor) if whole else bool((made.isinf() & ~tensor.isinf()).any())
    if lost:
        kind = str(dtype).removeprefix("torch.")
        why = f"tensor '{name}' has numbers that its {kind} can't hold; give --like a checkpoint in float32"
        raise UserError(f"{weights}: does not fit {checkpoint}: {why}")
    return made


def _shared(put: StateDict, before: Mapping[str, Tensor]) -> StateDict:
    """Return `put` with one object for equal tensors that shared memory `before`: a pickle then holds them once."""
    first: dict[tuple[int, ...], Tensor] = {}
    made = {}
    for name, tensor in put.items():
        old = before[name]
        one = first.setdefault((old.data_ptr(), *old.shape), tensor) if type(old) in TENSORS else tensor
        made[name] = one if torch.equal(one, tensor) else tensor
    return made


# A DTensor has no memory of its own.
TENSORS = (Tensor, torch.nn.Parameter)


def _content(place: Place, put: StateDict, own: Collection[str], rest: Rest) -> dict[str, Any]:
    """Return a checkpoint's content with the tensors `put` in place of the network's; note the others in `rest`."""
    others = {
        id(tensors): name
        for name, tensors in place.others.items()
        if AVERAGE.search(name) or max(hits_by_prefix(tensors, own).values()) == len(own)
    }

    def without(tree: dict[str, Any], path: str, left: dict[str, str]) -> dict[str, Any]:
        # A copy keeps the class and the attribute `_metadata` of torch's state dicts.
        made = copy.copy(tree)
        for key, value in tree.items():
            name = f"{path}{key}"
            if value is place.state_dict:
                made[key] = _state_dict(place, put, own, rest)
            elif (why := NETWORK if id(value) in others else _foreign(str(key), value, not path)) is not None:
                del made[key]
                left[name] = why
            elif isinstance(value, dict):
                below: dict[str, str] = {}
                made[key] = without(value, f"{name}.", below)
                if value and not made[key]:
                    # Nothing is left: one name says so.
                    del made[key]
                    below = {name: next(iter(below.values()))}
                left |= below
        return made

    if place.content is place.state_dict:
        return _state_dict(place, put, own, rest)
    return without(place.content, "", rest.left)


def _state_dict(place: Place, put: StateDict, own: Collection[str], rest: Rest) -> dict[str, Any]:
    """Return the state dict with the tensors `put`, and those beside the network; other networks are left out."""
    made = copy.copy(place.state_dict)
    beside = {name: INNER.sub("", name) for name in made if name not in put}
    prefixes = [prefix for prefix, count in hits_by_prefix(beside, own).items() if count == len(own)]
    theirs = {prefix + name: prefix for prefix in prefixes for name in place.names}
    for name, short in beside.items():
        if short in theirs:
            del made[name]
            rest.left[theirs[short] or name] = NETWORK
        else:
            rest.kept.append(name)
    made.update(put)
    return made


def _foreign(key: str, value: Any, outermost: bool) -> str | None:
    """Return the reason why an entry of a checkpoint is left out, in brackets or empty; None if it is kept."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not isinstance(value, dict) and holds_record(value):
        return RECORD
    if any(isinstance(part, dict) and TRAINING_KEYS & part.keys() for part in parts):
        return ""
    if not isinstance(value, dict | list | tuple):
        return None
    tensors = sum(isinstance(leaf, Tensor) for leaf in _leaves(value))
    # Settings of a module, such as its learning rate, may have such names, too.
    if TRAINING.search(key) and (outermost or tensors):
        return ""
    return NETWORK if AVERAGE.search(key) and tensors > 1 else None


def _leaves(tree: Any) -> Iterator[Any]:
    """Yield the values in nested dictionaries, lists and tuples."""
    if isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(value)
    else:
        yield tree


def _write(path: Path, content: dict[str, Any], original: Path) -> None:
    """Write a file in the form of `original`; a safetensors file gets the metadata of `original`."""
    if path.suffix != ".safetensors":
        write_pickle(path, content)
        return
    with safe_open(original, "pt") as file:
        metadata = file.metadata() or {}
    if len(metadata) <= 1:
        write_tensors(path, content, metadata or None)
        return
    with atomic(path) as temporary:
        write_tensors(temporary, content)
        _add_metadata(temporary, metadata)


def _add_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Write metadata, in order, into the header of a safetensors file, which safetensors writes in no fixed order."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}).encode()
    # The format aligns the numbers to eight bytes.
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
