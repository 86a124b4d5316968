"""A generated network in the files that other tools read: `rpg export --format pth|onnx|mmengine`.

Most tools read the .safetensors file of `rpg generate` itself. mmengine reads pickles alone, and ONNX holds the network
together with its weights.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rpg.generator.onnx_export import NEEDED, remove_notes
from rpg.generator.onnx_runtime import open_session
from rpg.tasks.adapters import adapter_state, is_adapted, loaded
from rpg.tasks.base import Task
from rpg.tasks.stack import StateDict, mismatch
from rpg.utils.errors import UserError, counted, one_line
from rpg.utils.files import atomic, read_tensors

PICKLES = (".pth", ".pt", ".bin")
# The largest difference between the outputs of onnxruntime and of torch, relative to the largest output.
TOLERANCE = 1e-3


def export_network(form: Literal["pth", "onnx", "mmengine"], weights: Path, out: Path, task: Task | None) -> str:
    """Write the network in the file `weights` to `out` in a form; return a line that says so.

    `task` builds the network; only the form "pth" needs none. Raises UserError as the functions below do.
    """
    if form == "pth":
        return export_pth(weights, out, task)
    assert task
    return (export_onnx if form == "onnx" else export_mmengine)(weights, out, task)


def export_pth(weights: Path, out: Path, task: Task | None) -> str:
    """Write the state dict in `weights` as torch's pickle `out`; return a line that says so.

    Raises UserError if the weights can't be read or do not fit the network of `task`, or for another suffix.
    """
    _check_suffix(out, *PICKLES)
    state_dict = read_tensors(weights)
    if task:
        fitted(task, state_dict, weights)
    write_pickle(out, state_dict)
    return one_line(f"{out}: a state dict of {counted(len(state_dict), 'tensor')}")


def export_mmengine(weights: Path, out: Path, task: Task) -> str:
    """Write the config `out`/network.py and the checkpoint `out`/network.pth; return a line that says so.

    mmdet's `init_detector` and mmseg's `init_model` read them. Raises UserError if the weights do not fit, and for a
    network of another library.
    """
    from rpg.tasks.openmmlab.literal import write_literals

    if out.is_file():
        raise UserError(f"{out}: a file; --format mmengine writes a folder")
    state_dict = read_tensors(weights)
    config, metainfo = task.mmengine_config()
    fitted(task, state_dict, weights)
    write_literals(config, out / "network.py")
    # The names and colors of the classes; a data set may note objects that no weights-only pickle holds.
    known = {key: metainfo[key] for key in ("classes", "palette") if metainfo.get(key) is not None}
    write_pickle(out / "network.pth", {"state_dict": state_dict, "meta": {"dataset_meta": known}})
    return one_line(f"{out}: network.py and network.pth, {len(known.get('classes', ()))} classes")


def export_onnx(weights: Path, out: Path, task: Task) -> str:
    """Write the network with its weights as the ONNX model `out`; return a line with its shapes and its accuracy.

    The input `images` is what the network sees after the data set's preprocessing; the batch is free if the network
    allows it. Raises UserError if the weights do not fit, if the network takes no images alone, if torch can't export
    the network, and if onnxruntime's outputs are not torch's.
    """
    _check_suffix(out, ".onnx")
    if missing := next((name for name in NEEDED if not find_spec(name)), None):
        raise UserError(f"--format onnx: {missing} is not installed; install rpg-weights[onnx]")
    network = fitted(task, read_tensors(weights), weights)
    example = task.example
    if example is None:
        raise UserError("--format onnx: the experiment has no example inputs; call torch.onnx.export on your network")
    images = example.cpu()
    for module in network.modules():
        # The exporter has no fused attention of three dimensions, which timm computes with this flag (torch 2.11.0).
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010 - mypy knows no such attribute
    expected = _outputs(network, images)
    program = _exported(network, images)
    with atomic(out) as temporary:
        program.save(temporary, external_data=False)
        difference = _difference(temporary, images, expected)
        if not difference <= TOLERANCE:
            raise UserError(
                f"--format onnx: onnxruntime's outputs are not torch's, with a difference of {difference:.1e}"
            )
    batch, *shape = program.model.graph.inputs[0].shape
    sizes = ", ".join(map(str, (batch if isinstance(batch, int) else "any", *shape)))
    return one_line(
        f"{out}: {out.stat().st_size:,} bytes, input [{sizes}]; onnxruntime's outputs differ from torch's by"
        f" {difference:.1e} of the largest"
    )


def fitted(task: Task, state_dict: StateDict, weights: Path) -> nn.Module:
    """Return the task's network in evaluation mode with the weights of the file; UserError unless they fit."""
    network = task.build()
    own = adapter_state(network) if is_adapted(network) else network.state_dict()
    if why := mismatch(state_dict, own):
        raise UserError(f"{weights}: does not fit the network: {why}; name its own --experiment or --generator")
    return loaded(network, state_dict)


def write_pickle(path: Path, tree: dict[str, Any]) -> None:
    """Write `tree` atomically, in the form of `torch.save`; equal trees give equal bytes.

    A state dict of torch keeps its attribute `_metadata`, the versions of its modules.
    """
    with atomic(path) as temporary, temporary.open("wb") as file:
        # A path, other than a file, would enter the content by its name.
        torch.save(tree, file)


def _check_suffix(out: Path, *suffixes: str) -> None:
    if out.suffix not in suffixes or out.is_dir():
        raise UserError(f"--out {out}: must be a file {' or '.join(suffixes)}")


@torch.no_grad()
def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    try:
        outputs = network(images)
    except Exception as error:
        # Any of a thousand networks may fail, each with its own exception types.
        raise UserError(f"--format onnx: the network does not run on images alone ({str(error)[:200]})") from error
    return [tensor for tensor in torch.utils._pytree.tree_leaves(outputs) if isinstance(tensor, Tensor)]


def _exported(network: nn.Module, images: Tensor) -> Any:
    """Return torch's ONNX program of a network; its batch is fixed if the network fixes it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                dynamic_shapes=({0: torch.export.Dim.AUTO},),
            )
    except Exception as error:
        # torch's exporter passes on the exceptions of the network and of its own passes; the cause says most.
        reason: BaseException = error
        while reason.__cause__:
            reason = reason.__cause__
        raise UserError(f"--format onnx: torch can't export the network ({str(reason)[:300]})") from error
    assert program
    remove_notes(program.model)
    return program


def _difference(path: Path, images: Tensor, expected: list[Tensor]) -> float:
    """Return the largest difference of onnxruntime's outputs from `expected`, relative to the largest output."""
    found = open_session(path, torch.get_num_threads()).run(None, {"images": images.numpy()})
    pairs = [(torch.from_numpy(one), other) for one, other in zip(found, expected, strict=True)]
    largest = max(float(other.abs().max()) for _, other in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs) / max(largest, torch.finfo(torch.float32).tiny)
