"""Generate networks from a packed generator without torch, by the exported graph that it holds.

The import of torch takes seconds and hundreds of megabytes, more than the generation of a network. onnxruntime runs the
graph, NumPy draws torch's random numbers. The networks differ from torch's by rounding.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rpg.generator.requests import zoo_membership
from rpg.utils.condition_requests import NOT_ON_IMAGES, States, Vectors, met, outside, requested
from rpg.utils.errors import UserError
from rpg.utils.files import atomic, read_json, read_sealed, sha256, write_json
from rpg.utils.rng import derive

CONFIG, GRAPH, ZOO, ADAPTER_CONFIG = "config.json", "model.onnx", "zoo.safetensors", "adapter_config.json"
MAKER = "rpg pack"
# The beginning of the names of the conditions' tensors.
TABLE = "conditions."
# A folder of a later format is refused. A format changes if an older version would read a folder wrongly.
FORMAT = 1
# The tensors' types that NumPy has.
DTYPES = ("float16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64")
# torch draws fewer normal numbers one by one, in another way.
MIN_NOISE = 16


class TorchRandom:
    """The numbers of torch's CPU generator (2.11.0): MT19937, Box and Muller's normal numbers in blocks of 16."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.RandomState(seed & 0xFFFFFFFF)

    def _draw(self, count: int) -> np.ndarray:
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)

    def integer(self, high: int) -> int:
        """Return torch.randint(high, ()); `high` is below 2^28."""
        return int(self._draw(1)[0]) % high

    def normal(self, count: int) -> np.ndarray:
        """Return torch.randn(count), float32, up to rounding; `count` is MIN_NOISE or more."""
        numbers = self._uniform(count)
        whole = count // 16 * 16
        numbers[:whole] = _box_muller(numbers[:whole])
        if whole < count:
            # torch draws the last block again.
            numbers[-16:] = _box_muller(self._uniform(16))
        return numbers

    def _uniform(self, count: int) -> np.ndarray:
        return (self._draw(count) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    one, other = uniform.reshape(-1, 2, 8).astype(np.float64).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log1p(-one)), 2 * np.pi * other
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32).ravel()


@dataclass(frozen=True)
class PackedTasks:
    """The tasks that a packed generator knows."""

    classes: list[str] | None
    in_words: bool
    dataset: str


@dataclass(frozen=True)
class GraphNetwork:
    """A generated network: its weights, and the permutation states and task code of its request."""

    state_dict: Mapping[str, np.ndarray]
    states: States
    code: str | None


def obstacle(folder: Path, steps: int | None) -> str | None:
    """Return the reason why onnxruntime can't run the packed generator in `folder`; None if it can.

    `steps` are those of the sampler; None takes the generator's own.
    """
    if not (folder / GRAPH).is_file():
        return f"{folder} has no {GRAPH}"
    if not find_spec("onnxruntime"):
        return "onnxruntime is not installed; install rpg-weights[onnx]"
    own = read_tree(folder).get("sample", {}).get("steps")
    return f"the graph has {own} steps" if steps not in (None, own) else None


def read_tree(folder: Path) -> dict[str, Any]:
    """Return config.json of a packed generator; UserError if it is missing, changed, or of a later version."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: no generator in it ({CONFIG} is missing); make one with `{MAKER}`")
    tree = read_sealed(path, MAKER)
    if isinstance(tree.get("format"), int) and tree["format"] > FORMAT:
        raise UserError(f"{folder}: packed by rpg {tree.get('version')}, a later version; update rpg")
    return tree


def check_packed(folder: Path, files: Iterable[Mapping[str, Any]], only: Collection[str] = ()) -> None:
    """Raise UserError if a file in the list of a packed generator, or one of those in `only`, is missing or changed."""
    for file in files:
        path = folder / file["file"]
        # The hub's cache holds links to files elsewhere.
        if (not only or file["file"] in only) and (not path.is_file() or sha256(path) != file["sha256"]):
            raise UserError(f"{path}: missing or changed since it was packed; get the folder again")


def open_session(path: Path, threads: int) -> Any:
    """Return onnxruntime's session of the graph `path` on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class GraphGenerator:
    """The packed generator in a folder that has a graph."""

    language_model: Path | None = None

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Read the folder; UserError if one of its files was changed."""
        self._folder, self._threads = folder, threads
        self._config = read_tree(folder)
        # Other files are for the runtime torch.
        check_packed(folder, self._config["files"], (GRAPH, ZOO, ADAPTER_CONFIG))
        self._zoo = load_file(folder / ZOO)
        self.task = PackedTasks(self._config["classes"], self._config["in_words"], self._config["dataset"])

    @cached_property
    def _session(self) -> Any:
        return open_session(self._folder / GRAPH, self._threads)

    @property
    def adapters(self) -> bool:
        """Whether the networks are adapters."""
        return (self._folder / ADAPTER_CONFIG).is_file()

    def networks(
        self,
        count: int,
        code: str | None,
        states: States | None,
        seed: int | None = None,
        steps: int | None = None,
        vectors: Vectors | None = None,
        prompt: Any = None,
    ) -> list[GraphNetwork]:
        """Return what `rpg.generator.trained.TrainedRPG.networks` returns, with NumPy's arrays as weights."""
        assert steps in (None, self._config["sample"]["steps"])
        assert prompt is None
        return [self._network(k, code, states, seed, vectors) for k in range(count)]

    def outside(self, vectors: Vectors | None, prompt: Any = None) -> list[str]:
        """Return a line for each requested number outside of the range that the zoo's checkpoints have."""
        return outside(self._table, vectors)

    @property
    def image_form(self) -> Any:
        """An RPG that takes images has no graph."""
        raise UserError(NOT_ON_IMAGES)

    @property
    def takes_questions(self) -> bool:
        """An RPG that takes questions has no graph."""
        return False

    @cached_property
    def _table(self) -> dict[str, np.ndarray]:
        return {name.removeprefix(TABLE): of for name, of in self._zoo.items() if name.startswith(TABLE)}

    def _network(
        self, index: int, code: str | None, states: States | None, seed: int | None, vectors: Vectors | None
    ) -> GraphNetwork:
        sample, layout = self._config["sample"], self._config["layout"]
        chosen = sample["seed"] if seed is None else seed
        pick = TorchRandom(derive(chosen, "wish", index)).integer
        of_vectors = [one for one in self._config["model"]["conditions"] if one["kind"] == "vector"]
        names = [one.get("name") or one["field"] for one in of_vectors]
        optional = [name for name, one in zip(names, of_vectors, strict=True) if one.get("dropout")]
        row = requested(self._table, pick, names, states, code, vectors, optional)
        draw, width = TorchRandom(derive(chosen, "sample", index)), layout["width"]
        length = sum(tensor["tokens"] for tensor in layout["tensors"])
        together = self._config["together"]
        parts = [draw.normal(min(together, length - start) * width) for start in range(0, length, together)]
        noise = np.float32(sample["temperature"]) * np.concatenate(parts).reshape(1, length, width)
        feeds = {f"condition.{name}": np.array([values], dtype=np.float32) for name, values in row.items()}
        # The graph has no input for a condition without effect.
        used = {one.name for one in self._session.get_inputs()}
        outputs = self._session.run(None, {name: of for name, of in {"noise": noise, **feeds}.items() if name in used})
        made = dict(zip((one.name for one in self._session.get_outputs()), outputs, strict=True))
        met_states, met_code = met(row)
        state_dict: dict[str, np.ndarray] = {}
        for tensor in layout["tensors"]:
            name = tensor["name"]
            if tensor.get("tied_to"):
                state_dict[name] = state_dict[tensor["tied_to"]]
            else:
                state_dict[name] = made[name] if tensor["tokens"] else self._zoo[f"skipped.{name}"][met_states[0]]
        return GraphNetwork(state_dict, met_states, met_code)

    def write(self, path: Path, network: GraphNetwork) -> None:
        """Write a network into a .safetensors file, or an adapter into a folder that peft opens."""
        if self.adapters:
            write_json(path / ADAPTER_CONFIG, read_json(self._folder / ADAPTER_CONFIG, MAKER))
            path /= "adapter_model.safetensors"
        metadata = {"task_code": network.code} if network.code else None
        with atomic(path) as temporary:
            # np.ascontiguousarray would turn a single number into an array of one.
            whole = {name: np.asarray(of, order="C") for name, of in network.state_dict.items()}
            save_file(whole, temporary, metadata)

    def zoo_membership(self, code: str) -> str:
        """Return whether the zoo has checkpoints for the task of `code`."""
        rows = self._zoo.get(f"{TABLE}task_code", np.zeros((0, 0))).astype(int).tolist()
        return zoo_membership(code, {"".join(map(str, row)) for row in rows}, self._config["held_out"])
