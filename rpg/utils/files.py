"""Read and write files: atomic writes, no code execution on reading, one writer per folder."""

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
from typing import TYPE_CHECKING, Any, TypeVar, overload

from rpg.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rpg.utils.artifacts import Form

F = TypeVar("F", bound="Form")

# The folder of all artifacts, relative to the folder of params.yaml.
RESULTS = Path("results")
# The key in a JSON artifact for the digest of all other keys.
SEAL = "sha256"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`. If the block succeeds, flush the file and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        _remove_if_left(leftover)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    # A temporary file without a lock is a leftover of a killed process.
    fcntl.flock(handle, fcntl.LOCK_EX)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's mode 0600 would prevent other users from reading a shared results folder.
        temporary.chmod(0o644)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _remove_if_left(temporary: Path) -> None:
    """Remove a temporary file unless a process is writing it."""
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
    """Write `tree` as JSON with a digest, so that `read_sealed` can detect changes."""
    write_json(path, sealed(tree))


def sealed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return `tree` with the SHA-256 of all its other keys."""
    rest = {key: value for key, value in tree.items() if key != SEAL}
    return {**rest, SEAL: _digest(rest)}


@overload
def read_sealed(path: Path, next_command: str) -> dict[str, Any]: ...
@overload
def read_sealed(path: Path, next_command: str, form: type[F]) -> F: ...
def read_sealed(path: Path, next_command: str, form: "type[Form] | None" = None) -> Any:
    """Read what `write_sealed` wrote; UserError, as in `read_json`, also if the file was changed since."""
    tree = read_json(path, next_command)
    digest = tree.pop(SEAL, None)
    typed = _typed(tree, path, next_command, form) if form else tree
    if digest != _digest(tree):
        raise UserError(f"{path}: changed since `{next_command}` wrote it; delete it and run the command again")
    return typed


def _digest(tree: dict[str, Any]) -> str:
    # The JSON round trip turns number keys into strings, as a later read does.
    read = json.loads(json.dumps(tree))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


@overload
def read_json(path: Path, next_command: str) -> dict[str, Any]: ...
@overload
def read_json(path: Path, next_command: str, form: type[F]) -> F: ...
def read_json(path: Path, next_command: str, form: "type[Form] | None" = None) -> Any:
    """Return the object in `path`: an instance of `form`, or a dictionary without a form.

    Raises UserError, with the command `next_command` that makes the file, if the file is missing or invalid.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; make it with `{next_command}`") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run `{next_command}`") from error
    if not isinstance(tree, dict):
        raise _not_written(path, next_command, "not a JSON object")
    return _typed(tree, path, next_command, form) if form else tree


def _typed(tree: dict[str, Any], path: Path, next_command: str, form: type[F]) -> F:
    from pydantic import ValidationError

    try:
        return form.model_validate(tree)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        why = f"{'.'.join(map(str, fault['loc'][:6]))[:100]}: {fault['msg']}"
        raise _not_written(path, next_command, why) from None


def _not_written(path: Path, next_command: str, why: str) -> UserError:
    return UserError(f"{path}: not written by `{next_command}` ({why}); delete it and run the command again")


def write_tensors(path: Path, tensors: dict[str, "Tensor"], metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as safetensors, atomically.

    `metadata` may hold at most one entry: safetensors writes several entries in no fixed order, so the bytes would
    vary.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    assert metadata is None or len(metadata) <= 1
    with atomic(path) as temporary:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(whole, temporary, metadata)
        except SafetensorError as error:
            # safetensors wraps OS errors, such as a full disk, in its own exception.
            if code := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
            raise


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """Return the state dict in `path` (.safetensors, .pth, .pt or .bin), on the CPU, in the file's order.

    A pickle is read with `weights_only=True`, so no code in the file runs. Raises UserError if the file is missing or
    truncated, holds code, or holds anything but named tensors of plain numbers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        tree: Any = load_safetensors(path)
    elif path.suffix in (".pth", ".pt", ".bin"):
        tree = load_pickle(path)
    else:
        raise UserError(f"{path}: unknown kind of checkpoint; use .safetensors, .pth, .pt or .bin")
    if not is_state_dict(tree):
        holds = f", but {', '.join(map(str, tree))[:60]}" if isinstance(tree, dict) else ""
        # A full training state may hold several state dicts, and only its owner knows the right one.
        inner = [f"['{key}']" for key, value in tree.items() if _holds_tensors(value)] if holds else []
        what = " or ".join(f"its {key}" for key in inner[:4]) or "`model.state_dict()`"
        raise UserError(f"{path}: not a state dict (names to tensors){holds}; save {what} alone")
    check_plain(path, tree)
    return tree


def load_safetensors(path: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a safetensors file; UserError if it is not complete."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        # safetensors raises its own error type, and torch raises another for unknown dtypes.
        raise UserError(f"{path}: not a complete safetensors file ({error}); make or download it again") from error


def load_pickle(path: Path) -> Any:
    """Return the content of a file by torch.save, read with `weights_only=True`; UserError if it can't be read."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises half a dozen exception types here. All mean that the file is not plain weights. A file with a
        # named object is whole.
        if "torch.distributed.tensor`` must be imported" in str(error):
            import torch.distributed.tensor

            return load_pickle(path)
        other = re.search(r"GLOBAL ([\w.]+)", str(error))
        if other and other[1].startswith(QUANTIZER):
            raise UserError(f"{path}: its weights are quantized by torchao; {DEQUANTIZE}") from error
        why = f"it holds more than weights ({other[1]})" if other else "it is truncated or holds more than weights"
        raise UserError(f"{path}: refused, because {why}; save a state dict") from error


def is_state_dict(tree: Any) -> bool:
    """Return whether `tree` maps names to tensors."""
    import torch

    return isinstance(tree, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tree.items()
    )


def check_plain(path: Path, tensors: dict[str, "Tensor"]) -> None:
    """Raise UserError that names a tensor of the file `path` if it is no plain array of 16, 32 or 64 bits."""
    largest = path.stat().st_size
    for name, tensor in tensors.items():
        if fault := _unlike_weights(tensor, largest):
            raise UserError(f"{path}: tensor '{name}' {fault}")


# The package whose tensors are quantized, and the remedy.
QUANTIZER = "torchao."
DEQUANTIZE = "call dequantize() of these tensors and save the state dict again"


def _holds_tensors(value: Any) -> bool:
    import torch

    return isinstance(value, dict) and any(isinstance(tensor, torch.Tensor) for tensor in value.values())


def _unlike_weights(tensor: "Tensor", file_bytes: int) -> str | None:
    """Return the reason why a tensor is no plain array of numbers, and the remedy; None if it is one."""
    import torch

    plain = "save plain numbers of 16, 32 or 64 bits"
    kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
    if kind.startswith(QUANTIZER):
        return f"is quantized by torchao; {DEQUANTIZE}"
    if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
        return f"is a {kind}; save full, plain tensors"
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return f"is sparse, quantized or without numbers; {plain}"
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.element_size() < 2):
        return f"is {str(tensor.dtype).removeprefix('torch.')}; {plain}"
    # An expanded tensor stores one number for many elements.
    too_large = tensor.numel() * tensor.element_size() > file_bytes
    return f"is larger than its file; {plain}" if too_large else None


def read_metadata(path: Path, key: str) -> str | None:
    """Return a safetensors file's metadata entry `key`; None if there is no such entry."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(key)
    except (SafetensorError, OSError):
        return None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path, folder: Path | None = None, digest: str | None = None) -> dict[str, str]:
    """Return the manifest entry of `path`: its path relative to `folder` (default: its own) and its SHA-256.

    `digest` is the SHA-256 if it is known.
    """
    return {"file": path.relative_to(folder or path.parent).as_posix(), "sha256": digest or sha256(path)}


def check_unchanged(folder: Path, file: str, expected_sha256: str, made: str, next_command: str) -> None:
    """Raise UserError unless `file` in `folder` exists and has the expected SHA-256.

    `made` is the past participle in the message, such as "trained"; `next_command` makes the file. A path or link that
    leads out of the folder is refused unread.
    """
    path = folder / file
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path}: leads out of {folder}; run {next_command} again")
    if not path.is_file() or sha256(path) != expected_sha256:
        raise UserError(f"{path}: missing or changed since it was {made}; run {next_command} again")


def verified_file(path: Path, by: Path, next_command: str) -> Path:
    """Return `path` if its content matches the entry in `files` of the sealed manifest `by`.

    Raises UserError if the file does not match.
    """
    from rpg.utils.artifacts import Files

    entries = {entry.file: entry.sha256 for entry in read_sealed(by, next_command, Files).files}
    check_unchanged(by.parent, path.name, entries.get(path.name, ""), "written", f"`{next_command}`")
    return path


def clear(folder: Path) -> None:
    """Remove an older run's networks from `folder`.

    The manifest goes first: a folder without a manifest counts as incomplete.
    """
    for leftover in [folder / "manifest.json", *folder.glob("*.safetensors")]:
        leftover.unlink(missing_ok=True)
    # An adapter or language model is a folder.
    for leftover in folder.iterdir():
        if leftover.is_symlink():
            leftover.unlink()
        elif leftover.is_dir():
            shutil.rmtree(leftover)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock `folder` for one writing process; other processes wait. The kernel frees the lock even after kill -9."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: waiting for another run that writes to this folder", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.*"):
            # A killed process may leave temporary files of `atomic`.
            leftover.unlink()
        yield
    finally:
        os.close(handle)
