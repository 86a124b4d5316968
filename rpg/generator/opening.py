"""Open the generator of an experiment, or a packed one, for a command.

The import of torch takes seconds, so a packed generator that onnxruntime can run is opened without it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rpg.blocks import PARAMS_FILE
from rpg.generator.requests import NetworkGenerator, check_out
from rpg.utils.errors import UserError
from rpg.utils.threads import limit_threads

if TYPE_CHECKING:
    from rpg.tasks.config import TaskConfig


def open_generator(
    name: str | None,
    folder: Path | None,
    out: Path,
    runtime: str,
    steps: int | None,
    threads: int,
    architecture: str | None = None,
) -> NetworkGenerator:
    """Return the generator of the experiment `name`, or the packed one in `folder`, for networks at the path `out`.

    `runtime` is torch, onnx, or auto: onnx for a packed generator whose graph has so many `steps`, else torch.
    `architecture` names the experiment whose networks the generator of a joint experiment makes. Raises
    UserError unless one generator is given, and if `out` has the wrong suffix.
    """
    check_one(name, folder)
    if folder and architecture:
        raise UserError("--architecture: a packed generator makes networks of one architecture; remove the option")
    if folder and _uses_graph(folder, runtime, steps):
        from rpg.generator.onnx_runtime import GraphGenerator

        graph = GraphGenerator(folder, threads)
        check_out(out, graph.adapters)
        return graph
    _fix(threads)
    from rpg.generator.packed import read_packed
    from rpg.generator.trained import TrainedRPG

    if name:
        from rpg.config.loading import load_params

        params = load_params(Path(PARAMS_FILE))
        # A wrong suffix is found before the model is loaded.
        joint = name in params.joint
        check_out(out, adapters=not joint and params.experiment(name).tokens.canonical is not None)
        return TrainedRPG.of_params(params, name, architecture=architecture)
    trained = read_packed(folder or Path())
    check_out(out, adapters=trained.adapter_config is not None)
    return trained


def open_task(name: str | None, folder: Path | None, threads: int) -> "tuple[TaskConfig, str | None, Path | None]":
    """Return the task of an experiment, or of a packed generator, the folder of the data sets, and that of the tokens.

    A packed generator has neither of the folders.
    """
    check_one(name, folder)
    _fix(threads)
    from rpg.config.loading import load_params
    from rpg.generator.packed import read_task
    from rpg.paths import paths_of

    if name:
        params = load_params(Path(PARAMS_FILE))
        return params.experiment(name).task, params.data_root, paths_of(params, name).folder("tokens")
    return read_task(folder or Path()), None, None


def check_one(name: str | None, folder: Path | None) -> None:
    """Raise UserError unless an experiment or the folder of a packed generator is given, but not both."""
    if (name is None) == (folder is None):
        raise UserError("give one of --experiment NAME and --generator FOLDER")


def _uses_graph(folder: Path, runtime: str, steps: int | None) -> bool:
    if runtime == "torch":
        return False
    from rpg.generator.onnx_runtime import obstacle

    why = obstacle(folder, steps)
    if why and runtime == "onnx":
        raise UserError(f"--runtime onnx: {why}; use --runtime torch")
    return not why


def _fix(threads: int) -> None:
    limit_threads(threads)
    from rpg.utils.rng import fix_arithmetic

    fix_arithmetic(threads)
