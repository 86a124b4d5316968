"""The user's own networks: checkpoints from elsewhere, and up to two functions that build and score networks.

    build() -> torch.nn.Module                  a network that fits the checkpoints; for adapters a PeftModel
    score(network, split) -> float              in `task.unit`, by default a percentage, of which higher is better
                                                unless `task.lower_is_better`; `split` is "validation" or "test"
    score(network, split) -> answers, targets   or both as [n] whole numbers; the score is their accuracy

The functions run with the network in evaluation mode, without gradients, and with torch's generator in the same state
at each call. Without `build`, the first checkpoint tells the names and shapes of the tensors. Without `score`, the
score of a network is its distance from the zoo.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rpg.blocks import PARAMS_FILE
from rpg.tasks.adapters import (
    CONFIG,
    WEIGHTS,
    adapter_state,
    config_tree,
    difference,
    is_adapted,
    loaded,
    read_adapter_config,
    settings,
    write_adapter,
)
from rpg.tasks.base import Judgement, Save, Task, tied_names
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.custom.config import CustomTask, GivenZoo
from rpg.tasks.custom.facts import Fact, Facts, read_facts
from rpg.tasks.custom.functions import ScoreFunction, UserFunction
from rpg.tasks.custom.reading import (
    INDEX,
    SUFFIXES,
    Found,
    ReadRun,
    as_torch_loads,
    as_transformers_loads,
    check_distributed,
    is_checkpoint,
    is_of_transformers,
    read_weights,
)
from rpg.tasks.custom.runs import is_pattern, natural, run_of
from rpg.tasks.stack import StateDict, mismatch
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.files import read_json

# The name of the score of networks that no function scores.
DISTANCE_NAME = "distance"
COUNTER = ".num_batches_tracked"
OLD_WEIGHTS = "adapter_model.bin"
# Scales that bitsandbytes writes beside its weights of 8 or 4 bits.
# Names that torch's modules give to tensors which are no weights: vectors of spectral_norm's power iteration, masks of
# pruning and of attention, observers, tables of positions.
BUFFERS = re.compile(
    r"(^|[._])(_[uv]|weight_[uv]|\w+_mask|min_val|max_val|zero_point|fake_quant_enabled|observer_enabled|inv_freq"
    r"|position_ids|relative_position_index|relative_coords_table)$"
)
QUANTIZED = re.compile(r"\.(SCB|absmax|nested_absmax|quant_map|quant_state\.bitsandbytes__\w+)$")


class Custom(Task):
    """Reads checkpoints instead of training networks, and scores networks with the user's function."""

    def __init__(self, params: CustomTask) -> None:
        self.params = params
        self.metrics = (params.metric or DISTANCE_NAME,)
        self._score = ScoreFunction(params.score, params.metric_kind) if params.score else None
        # Without `build`: the first checkpoint that was read, its path, and its tied tensors.
        self._first: StateDict = {}
        self._first_path = Path()
        self._runs: list[ReadRun] = []
        self._table: Facts | None = None
        # Seed and step of a checkpoint that was read → the user's facts.
        self._facts: dict[tuple[int, int], dict[str, Fact]] = {}

    @cached_property
    def network(self) -> nn.Module:
        if not self.params.build:
            raise UserError(
                f"{PARAMS_FILE}: task.build: missing; this needs the network, so name a function that builds it"
            )
        build = UserFunction("build", self.params.build)
        network = build()
        if not isinstance(network, nn.Module):
            raise build.fault(f"must return a torch.nn.Module, not {type(network).__name__}")
        lazy = next((name for name, tensor in _tensors(network) if is_lazy(tensor)), None)
        if lazy:
            raise build.fault(f"'{lazy}' has no shape yet; call the network with one input and return it then")
        network = network.to(device()).eval()
        if not (adapter_state(network) if is_adapted(network) else network.state_dict()):
            raise build.fault("the network has no weights")
        return network

    def build(self) -> nn.Module:
        return copy.deepcopy(self.network).cpu()

    def adapter_config(self) -> dict[str, Any] | None:
        return config_tree(self._config) if self.adapters else None

    @property
    def adapters(self) -> bool:
        """Whether the weights are an adapter's."""
        return is_adapted(self.network) if self.params.build else self.params.adapter is not None

    @property
    def own(self) -> StateDict:
        """The current weights of `network`, in its order; without a network, those of the first checkpoint."""
        if not self.params.build:
            return self._first
        return adapter_state(self.network) if self.adapters else self.network.state_dict()

    @property
    def buffers(self) -> frozenset[str]:
        """The tensors that are no weights; without a network, the names tell them."""
        if self.params.build:
            return super().buffers
        return frozenset(name for name in self._first if BUFFERS.search(name))

    @cached_property
    def tied(self) -> dict[str, str]:
        """The tied tensors; without a network, those that share memory in the first checkpoint."""
        return super().tied if self.params.build else tied_names(self._first)

    @property
    def parameters(self) -> int:
        if self._zoo and not self.params.build:
            return self._zoo.weights
        return sum(tensor.numel() for tensor in self.own.values()) if self.adapters else super().parameters

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        own = self.own or dict(self.network.state_dict())
        return {name: tensor.to("meta") for name, tensor in own.items()}

    def check(self) -> None:
        if self.params.build:
            assert isinstance(self.network, nn.Module)
        if self._score:
            assert callable(self._score.function)

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        raise NotImplementedError("this task trains no networks")

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        """Read the checkpoints of the one run in `runs`; call `save` with each checkpoint's index.

        Raises UserError that names the checkpoint if a checkpoint does not fit, is not finite, can't be read or has no
        row in `zoo.facts`.
        """
        assert isinstance(zoo, GivenZoo)
        (run,) = runs
        name = zoo.names[run.seed]
        read = ReadRun(name)
        self._runs.append(read)
        paths = self.run_checkpoints(zoo, name)
        self.fact_names(zoo)
        told = self._table.of_run(zoo.found[name], paths) if self._table else {}
        for path in paths:
            state_dict, notes = self.read(path, zoo.weights)
            read.notes |= dict.fromkeys(notes)
            if read.is_new(path, state_dict):
                step = len(read.names) - 1
                if self._table:
                    if path not in told:
                        raise self._table.lacks(path)
                    self._facts[run.seed, step] = told[path]
                save(step, [state_dict])
        read.report()

    def fact_names(self, zoo: ZooConfig) -> list[str]:
        assert isinstance(zoo, GivenZoo)
        if zoo.facts and not self._table:
            self._table = read_facts(Path(zoo.facts), [f"validation_{self.metric}"])
            self._table.check_runs([*chain.from_iterable(zoo.found.values())])
            for name, classes in self._table.classes.items():
                print(f"zoo: {zoo.facts}: the numbers of '{name}' stand for {', '.join(classes)}", flush=True)
        return self._table.names if self._table else []

    def facts(self, run: Run, step: int) -> Mapping[str, Fact]:
        return self._facts.get((run.seed, step), {})

    def summary(self) -> dict[str, Any]:
        """Return the runs, their checkpoints and copies, the types of numbers, an adapter's settings, and classes.

        `sparsity` maps a run to the shares of zeros in the masks of its checkpoints, the least and the greatest.
        `classes` maps a column of texts in `zoo.facts` to the texts, in the order of the column's numbers.
        """
        facts = {
            "runs": {run.name: list(run.names.values()) for run in self._runs},
            "left_out": {copy: name for run in self._runs for copy, name in run.copies.items()},
            "dtypes": sorted({dtype for run in self._runs for dtype in run.dtypes}),
        }
        if any(run.notes for run in self._runs):
            facts["found"] = {run.name: list(run.notes) for run in self._runs if run.notes}
        if any(run.sparsity for run in self._runs):
            facts["sparsity"] = {run.name: [min(run.sparsity), max(run.sparsity)] for run in self._runs if run.sparsity}
        if self._table and self._table.classes:
            facts["classes"] = self._table.classes
        return {**facts, "adapter": settings(self._config)} if self.adapters else facts

    def run_checkpoints(self, zoo: GivenZoo, name: str) -> list[Path]:
        """Return the checkpoints of a run in order; UserError if there are none."""
        found = zoo.found[name]
        if zoo.state_from is None or (len(found) == 1 and run_of(found[0], zoo.state_from) is None):
            if zoo.state_from and Path(found[0]).exists():
                why = f"zoo.state_from '{zoo.state_from}' matches nothing in '{found[0]}'"
                raise UserError(f"{PARAMS_FILE}: {why}; correct it")
            return self.checkpoints(Path(name))
        return [path for entry in found for path in self.checkpoints(Path(entry))]

    def checkpoints(self, run: Path) -> list[Path]:
        """Return the checkpoints of a run; UserError if the run's folder is missing or has no checkpoints.

        A run's folder holds files, or folders of one file each, as Trainer of transformers writes them. The network in
        the run's own folder, as Trainer's `save_model` leaves it beside them, comes last.
        """
        if run.is_file() and self._is_checkpoint(run):
            if run.name.endswith(INDEX):
                raise UserError(f"{PARAMS_FILE}: zoo.runs: {run} lists further files; name its folder {run.parent}")
            return [run]
        if not run.exists():
            fault = f"nothing matches '{run}'" if is_pattern(str(run)) else f"no folder '{run}'"
            raise UserError(f"{PARAMS_FILE}: zoo.runs: {fault}; a path starts at the folder of {PARAMS_FILE}")
        below = sorted(run.iterdir(), key=_in_order) if run.is_dir() else []
        check_distributed(run)
        if self.adapters:
            self._check_adapters([*below, run])
            paths = [path for path in below if self._is_checkpoint(path)]
            # The folders below the run's own are checkpoints, not adapters of other names.
            paths += [run] if any((path / CONFIG).is_file() for path in self._named_folders(run)) else []
        else:
            files = [path for path in below if self._is_checkpoint(path)]
            paths = [file for path in below if path.is_dir() and (file := self._only_file(path))]
            paths += files
        if not paths:
            kind = f"adapter (a folder with {CONFIG})" if self.adapters else f"checkpoint ({' '.join(SUFFIXES)})"
            runs = [str(path) for path in below if path.is_dir() and any(map(self._holds_checkpoint, path.iterdir()))]
            remedy = "take it out of zoo.runs, or put its checkpoints there"
            if runs:
                remedy = f"list its folders, such as {runs[0]}, in zoo.runs"
            raise UserError(f"{run}: no {kind} in it; {remedy}")
        return paths

    def _check_adapters(self, paths: Sequence[Path]) -> None:
        """Raise UserError if a folder of weights has no configuration, or if one has adapters of several names."""
        for path in paths:
            weights = next((file for file in (path / WEIGHTS, path / OLD_WEIGHTS) if file.is_file()), None)
            if weights and not (path / CONFIG).is_file():
                raise UserError(f"{weights}: {CONFIG} is missing beside it; copy the one of its save_pretrained there")
        for path in paths[:-1]:
            names = [folder.parent.name for folder in sorted(path.glob(f"*/{CONFIG}"))]
            if len(names) > 1 and not self._adapter_folder(path):
                listed = ", ".join(names[:6])
                fault = f"has adapters of several names ({listed})"
                raise UserError(f"{path}: {fault}; choose one by adapter_name= in {self._builder}, or list folders")

    def _named_folders(self, path: Path) -> list[Path]:
        """Return the folders where peft writes the network's adapter: `path`, or, if it has a name, one below."""
        return [path, path / str(self.network.active_adapter)] if self.params.build else [path]

    def _adapter_folder(self, path: Path) -> Path | None:
        """Return the folder of the adapter in `path`; None if there is none.

        peft writes an adapter of another name than "default" into a folder of that name. The only one may have any.
        """
        named = [folder for folder in self._named_folders(path) if (folder / CONFIG).is_file()]
        other = [config.parent for config in path.glob(f"*/{CONFIG}")]
        return named[0] if named else other[0] if len(other) == 1 else None

    def _holds_checkpoint(self, path: Path) -> bool:
        return self._is_checkpoint(path) or (path.is_dir() and any(map(self._is_checkpoint, path.iterdir())))

    def _only_file(self, folder: Path) -> Path | None:
        """Return the checkpoint of a folder with a single one; None for other folders."""
        files = [path for path in folder.iterdir() if self._is_checkpoint(path)]
        return files[0] if len(files) == 1 else None

    def saves(self, zoo: ZooConfig, run: Run) -> int:
        assert isinstance(zoo, GivenZoo)
        return len(self.run_checkpoints(zoo, zoo.names[run.seed]))

    def _is_checkpoint(self, path: Path) -> bool:
        if self.adapters:
            return self._adapter_folder(path) is not None
        return is_checkpoint(path)

    def read(self, path: Path, choice: str | None) -> tuple[StateDict, list[str]]:
        """Return the weights of a checkpoint under the network's names, and notes on what was chosen and changed."""
        file = path
        if folder := self._adapter_folder(path) if self.adapters else None:
            self._check_config(folder / CONFIG)
            file = folder / WEIGHTS
            if not file.is_file() and (folder / OLD_WEIGHTS).is_file():
                file = folder / OLD_WEIGHTS
        own = self.own
        given = [name for name in own if not name.endswith(COUNTER) and name not in self._copies] if own else None
        found = read_weights(file, given, choice)
        if not own:
            own = self._first = {name: tensor for name, tensor in found.tensors.items() if not QUANTIZED.search(name)}
            self._first_path = file
        state_dict = with_tied(found.tensors, self.tied)
        # torch loads a plain state dict without BatchNorm's counters, too.
        missing = own.keys() - state_dict.keys()
        if all(name.endswith(COUNTER) for name in missing):
            state_dict |= {name: own[name] for name in missing}
        if quantized := next((name for name in state_dict if QUANTIZED.search(name)), None):
            fault = f"tensor '{quantized}' belongs to weights that bitsandbytes has quantized"
            raise UserError(f"{file}: {fault}; call the model's dequantize() and save it again")
        if why := mismatch(state_dict, own):
            if not self.params.build:
                raise UserError(f"{file}: is no network like {self._first_path}: {why}; leave one of them out")
            state_dict = self._as_libraries_load(file, found, why)
        for name, tensor in state_dict.items():
            if name not in self.buffers and not torch.isfinite(tensor).all():
                raise UserError(f"{file}: tensor '{name}' holds NaN or Inf; take this checkpoint out of the folder")
        # safetensors can't write tensors that share memory, so copy them.
        return {name: state_dict[name].clone() for name in own}, found.notes

    @property
    def _builder(self) -> str:
        """What the user names in place of the network's code."""
        return self.params.build or self.params.adapter or ""

    @property
    def _copies(self) -> set[str]:
        """All names of tied tensors, of which a file may have one."""
        return {*self.tied, *self.tied.values()}

    def _as_libraries_load(self, file: Path, found: Found, why: str) -> StateDict:
        """Return what the network holds after the library's own loading; UserError with `why` if that fails, too."""
        own = self.own
        if not self.adapters:
            loaded = as_torch_loads(self.build(), with_tied(found.tensors, self.tied), self.buffers)
            if loaded and loaded.keys() == own.keys():
                found.notes.append("names or shapes as load_state_dict turns them")
                return {name: tensor.cpu() for name, tensor in loaded.items()}
        remedy = ""
        if is_of_transformers(self.network):
            with torch.random.fork_rng():
                loaded = as_transformers_loads(self.network, found.tensors)
            if loaded and not mismatch(loaded, own):
                found.notes.append("names as transformers' from_pretrained turns them")
                return {name: tensor.cpu() for name, tensor in loaded.items()}
            remedy = "; save `model.state_dict()`"
        raise UserError(f"{file}: does not fit what {self._builder} builds: {why}{remedy}")

    def _check_config(self, path: Path) -> None:
        if why := difference(read_json(path, "PeftModel.save_pretrained"), self._config, self._builder):
            raise UserError(f"{path}: {why}")

    @property
    def _config(self) -> Any:
        if self.params.adapter:
            return read_adapter_config(Path(self.params.adapter) / CONFIG)
        network: Any = self.network
        return network.peft_config[network.active_adapter]

    def write(self, stem: Path, state_dict: StateDict) -> Path:
        """Write a file, or, for an adapter, a folder that `PeftModel.from_pretrained` opens; return the path."""
        config = self.adapter_config()
        return super().write(stem, state_dict) if config is None else write_adapter(stem, config, state_dict)

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        if not self._score:
            if not self._zoo:
                raise UserError(f"{PARAMS_FILE}: task.score: missing; name a function that scores a network")
            distance = self._zoo.distance(state_dict)
            return Judgement({self.metric: distance}, torch.zeros(0, dtype=torch.int64))
        why = mismatch(state_dict, self.own)
        # Observers take the shapes of the weights.
        if why and (self.adapters or as_torch_loads(self.build(), state_dict, self.buffers) is None):
            raise UserError(f"the weights do not fit what {self.params.build} builds: {why}")
        answers, score = self._score.judge(loaded(self.network, state_dict), split)
        return Judgement({self.metric: score}, answers)

    def targets(self, split: str, code: str | None = None) -> Tensor:
        if not self._score:
            return torch.zeros(0, dtype=torch.int64)
        return self._score.targets(split, lambda: loaded(self.network, self.own))


def with_tied(state_dict: StateDict, tied: Mapping[str, str]) -> StateDict:
    """Return `state_dict` with all names of tied tensors: transformers' `save_pretrained` writes one name only."""
    full = dict(state_dict)
    for name, first in tied.items():
        if name in full:
            full.setdefault(first, full[name])
    return full | {name: full[first] for name, first in tied.items() if name not in full and first in full}


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _in_order(path: Path) -> Any:
    """Return a sort key by which a network that was the best, or a copy of it, comes after those with a number."""
    return re.match(r"best(\b|_)", path.name) is not None, natural(path.name)
