"""Files: whole under their final name, opened without running code, one writer at a time."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rpg.utils.artifacts import Form

# Artifacts lie below this folder, in the folder of params.yaml.
RESULTS = Path("results")
# The key of a JSON artifact under which the digest of the others stands.
SEAL = "sha256"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; when the block ends well, it becomes `path`, flushed to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        _remove_if_left(leftover)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    # Held while it is written: what is not is left from a process that was killed.
    fcntl.flock(handle, fcntl.LOCK_EX)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's 0600 would keep a shared results folder from being read by others.
        temporary.chmod(0o644)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _remove_if_left(temporary: Path) -> None:
    """Remove a temporary file, unless a process is writing it."""
    try:
        handle = os.open(temporary, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink(missing_ok=True)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: Any) -> None:
    """Write `tree` to `path` atomically, with sorted keys."""
    write_text(path, json.dumps(tree, indent=2, sort_keys=True) + "\n")


def write_sealed(path: Path, tree: dict[str, Any]) -> None:
    """As `write_json`, `sealed`: `read_sealed` knows by it that nothing was changed."""
    write_json(path, sealed(tree))


def sealed(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the SHA-256 of all that it holds besides."""
    rest = {key: value for key, value in tree.items() if key != SEAL}
    return {**rest, SEAL: _digest(rest)}


def read_sealed(path: Path, next_command: str, form: "type[Form] | None" = None) -> Any:
    """As `read_json`, of what `write_sealed` wrote; UserError, too, if it was changed since."""
    tree = read_json(path, next_command, form)
    if tree.pop(SEAL, None) != _digest(tree):
        raise UserError(f"{path}: changed since `{next_command}` wrote it; delete it and run that again")
    return tree


def _digest(tree: dict[str, Any]) -> str:
    # As it is read: JSON has no numbers for keys.
    read = json.loads(json.dumps(tree))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, next_command: str, form: "type[Form] | None" = None) -> Any:
    """The object in `path`, which must hold what `form` says.

    Otherwise UserError, which names `next_command`, the one that makes the file.
    """
    from pydantic import ValidationError

    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; make it with `{next_command}`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run `{next_command}`") from error
    why = "" if isinstance(tree, dict) else "no object"
    if form and not why:
        try:
            form.model_validate(tree)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            why = f"{'.'.join(map(str, fault['loc'][:6]))[:100]}: {fault['msg']}"
    if why:
        raise UserError(f"{path}: not written by `{next_command}` ({why}); delete it and run that again")
    return tree


def write_tensors(path: Path, tensors: dict[str, "Tensor"], metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as safetensors, atomically.

    `metadata` may hold one entry at most: safetensors writes several in no fixed order, which would change the bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    assert metadata is None or len(metadata) <= 1
    with atomic(path) as temporary:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(whole, temporary, metadata)
        except SafetensorError as error:
            # A full disk, which safetensors tells in words of its own.
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
            raise


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """The state dict in `path` (.safetensors, .pth, .pt or .bin), on the CPU, in the file's order.

    A pickle is read with `weights_only=True`, so it can hold tensors and nothing that runs. Raises UserError if the
    file is missing, truncated, holds code, or holds something else than named tensors of plain numbers.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            tree = load_file(path)
        except Exception as error:
            # safetensors has an error of its own, and torch's for kinds of numbers that torch lacks.
            raise UserError(f"{path}: not a whole safetensors file ({error}); make or fetch it again") from error
    elif path.suffix in (".pth", ".pt", ".bin"):
        try:
            tree = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # torch raises half a dozen types here; all of them mean that the file is not plain weights.
            why = "refused, it is truncated or holds more than weights; save a state dict"
            raise UserError(f"{path}: {why}") from error
    else:
        raise UserError(f"{path}: unknown kind of checkpoint; known: .safetensors .pth .pt .bin")
    if not isinstance(tree, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tree.items()
    ):
        # Which of the weights in a training's whole state are meant, its owner knows.
        holds = f", but {', '.join(map(str, tree))[:60]}" if isinstance(tree, dict) else ""
        raise UserError(f"{path}: not a state dict (names to tensors){holds}; save `model.state_dict()` alone")
    for name, tensor in tree.items():
        if fault := _unlike_weights(tensor, path.stat().st_size):
            raise UserError(f"{path}: tensor '{name}' {fault}; save plain numbers of 16, 32 or 64 bits")
    return tree


def _unlike_weights(tensor: "Tensor", file_bytes: int) -> str | None:
    """Why a tensor of a file of so many bytes is nothing to be computed with; None if it is."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return "is sparse, quantised or without numbers"
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() < 2):
        return f"is {str(tensor.dtype).removeprefix('torch.')}"
    # One number may stand for all of a tensor.
    return "is larger than its file" if tensor.numel() * tensor.element_size() > file_bytes else None


def read_metadata(path: Path, key: str) -> str | None:
    """What a safetensors file says under `key`, as `write_tensors` wrote it; None if it says nothing."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(key)
    except (SafetensorError, OSError):
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path, folder: Path | None = None) -> dict[str, str]:
    """The entry by which a file in `folder`, or beside it, vouches for `path`: its path there and its SHA-256."""
    return {"file": path.relative_to(folder or path.parent).as_posix(), "sha256": sha256(path)}


def check_unchanged(folder: Path, file: str, expected_sha256: str, made: str, next_command: str) -> None:
    """UserError unless `file` in `folder` holds what its manifest says.

    `made` and `next_command` say how it came to be. What leads out of the folder, by name or as a link, is not read.
    """
    path = folder / file
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path}: leads out of {folder}; run {next_command} again")
    if not path.is_file() or sha256(path) != expected_sha256:
        raise UserError(f"{path}: missing or changed since it was {made}; run {next_command} again")


def verified_file(path: Path, by: Path, next_command: str) -> Path:
    """`path`, if it holds what the sealed JSON `by` beside it says under `files`; UserError if it does not."""
    from rpg.utils.artifacts import Files

    entries = {entry["file"]: entry["sha256"] for entry in read_sealed(by, next_command, Files)["files"]}
    check_unchanged(by.parent, path.name, entries.get(path.name, ""), "written", f"`{next_command}`")
    return path


def clear(folder: Path) -> None:
    """Remove an older run's networks from `folder`, and first the manifest, whose absence says that it is not whole."""
    for stranger in [folder / "manifest.json", *folder.glob("*.safetensors")]:
        stranger.unlink(missing_ok=True)
    # A network that is a folder of its own.
    for stranger in folder.iterdir():
        if stranger.is_symlink():
            stranger.unlink()
        elif stranger.is_dir():
            shutil.rmtree(stranger)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `folder` for one writing process; another one waits. The kernel frees it even after kill -9."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: waiting for another run that is writing there", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.*"):
            # What `atomic` was writing when its process was killed.
            leftover.unlink()
        yield
    finally:
        os.close(handle)
