"""Checkpoints as tokens: `rpg tokens --experiment digits-resnet`.

Writes tokens/tokens.safetensors (`tokens` [N, L, D]), tokens/layout.json and tokens/stats.safetensors.

A state dict's tensors are normalised one by one, flattened in the state dict's order, padded with NaN to a multiple of
D and cut into rows (RPG section 2.1 and its published code):

    running_var:  v → log(v / m + 0.05), m = 0.95 · mean(v)
    every tensor: w → (w − μ) / σ

N checkpoints, L tokens per checkpoint, D token width, K tensors that become tokens, S permutation states.
"""

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from rpg.canonical import canonical
from rpg.collect import read_zoo
from rpg.errors import UserError
from rpg.files import (
    atomic,
    check_unchanged,
    exclusive,
    file_entry,
    read_sealed,
    read_tensors,
    sha256,
    write_sealed,
    write_tensors,
)
from rpg.forms import TokenLayout
from rpg.params import Tokens

VARIANCE_SHIFT = 0.05
VARIANCE_FLOOR = 0.001
VARIANCE_MEAN_SHARE = 0.95
# Weights that are computed with at once, in float64: the processor's cache holds them, and memory is for the rest.
CHUNK = 2**16
# A standard deviation below this share of the mean is rounding: the tensor is constant.
CONSTANT = 1e-9


@dataclass(frozen=True)
class TensorLayout:
    """Where one tensor of a state dict stands: `tokens` rows from row `first` on, or nowhere if `tokens` is 0."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    first: int
    tokens: int

    @property
    def is_variance(self) -> bool:
        return self.name.rpartition(".")[2] == "running_var"


@dataclass(frozen=True)
class Layout:
    """Tensor ↔ token map of one architecture, in state-dict order."""

    width: int
    tensors: tuple[TensorLayout, ...]
    # Whether low-rank pairs are brought into one form before they become tokens.
    canonical: bool = False

    @classmethod
    def of(cls, state_dict: dict[str, Tensor], width: int, canonical: bool = False) -> "Layout":
        """The layout of `state_dict` with tokens of `width` weights."""
        tensors, first = [], 0
        for name, tensor in state_dict.items():
            skipped = name.endswith("num_batches_tracked") or tensor.numel() <= 1 or not tensor.is_floating_point()
            tokens = 0 if skipped else math.ceil(tensor.numel() / width)
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors.append(TensorLayout(name, tuple(tensor.shape), dtype, first, tokens))
            first += tokens
        if first == 0:
            raise UserError(
                "no tensor of the checkpoint can become tokens; is it a state dict of floating point weights?"
            )
        return cls(width, tuple(tensors), canonical)

    @classmethod
    def from_json(cls, tree: dict) -> "Layout":
        names = [field.name for field in fields(TensorLayout)]
        entries = [{name: entry[name] for name in names} for entry in tree["tensors"]]
        tensors = (TensorLayout(**{**entry, "shape": tuple(entry["shape"])}) for entry in entries)
        return cls(tree["width"], tuple(tensors), tree.get("canonical", False))

    @property
    def length(self) -> int:
        """L, tokens per checkpoint."""
        return sum(tensor.tokens for tensor in self.tensors)

    @property
    def tokenised(self) -> tuple[TensorLayout, ...]:
        """The K tensors that become tokens."""
        return tuple(tensor for tensor in self.tensors if tensor.tokens)

    @property
    def skipped(self) -> tuple[TensorLayout, ...]:
        """The tensors that are copied through: counters, single numbers, integers."""
        return tuple(tensor for tensor in self.tensors if not tensor.tokens)

    def positions(self) -> Tensor:
        """[L, 2] int64: the token's index inside its tensor, and the tensor's index among the K tokenised ones."""
        rows = [(i, k) for k, tensor in enumerate(self.tokenised) for i in range(tensor.tokens)]
        return torch.tensor(rows)

    def head(self) -> Tensor:
        """[L] bool: True for the tokens of the last module of the state dict, a classifier's weight and bias."""
        module = self.tokenised[-1].name.rpartition(".")[0]
        head_L = torch.zeros(self.length, dtype=torch.bool)
        for tensor in self.tokenised:
            if tensor.name.rpartition(".")[0] == module:
                head_L[tensor.first : tensor.first + tensor.tokens] = True
        return head_L

    def padding(self) -> Tensor:
        """[L, D] bool: True where a token holds no weight."""
        padding_LD = torch.zeros(self.length, self.width, dtype=torch.bool)
        for tensor in self.tokenised:
            padding_LD[tensor.first : tensor.first + tensor.tokens].view(-1)[math.prod(tensor.shape) :] = True
        return padding_LD

    def check(self, state_dict: dict[str, Tensor], file: Path | str, remedy: str) -> None:
        """UserError naming `file`, tensor and `remedy` if `state_dict` has another structure, or a NaN or Inf."""
        expected = {tensor.name: tensor for tensor in self.tensors}
        for name in state_dict:
            if name not in expected:
                raise UserError(f"{file}: tensor '{name}' is not in the zoo's other checkpoints")
        for name, tensor in expected.items():
            if name not in state_dict:
                raise UserError(f"{file}: tensor '{name}' is missing; the zoo's other checkpoints have it")
            found = state_dict[name]
            if tuple(found.shape) != tensor.shape:
                raise UserError(f"{file}: tensor '{name}' has shape {list(found.shape)}, not {list(tensor.shape)}")
            dtype = str(found.dtype).removeprefix("torch.")
            if dtype != tensor.dtype:
                raise UserError(f"{file}: tensor '{name}' is {dtype}, not {tensor.dtype} as in the other checkpoints")
            if tensor.is_variance and (found < 0).any():
                raise UserError(f"{file}: tensor '{name}' holds a negative variance; {remedy}")
            if found.is_floating_point() and not torch.isfinite(found).all():
                raise UserError(f"{file}: tensor '{name}' holds NaN or Inf; {remedy}")


@dataclass(frozen=True)
class Stats:
    """Per-tensor statistics of a zoo, each [K] float64, in the order of `Layout.tokenised`.

    `mean` and `std` are averages over checkpoints of each checkpoint's mean and unbiased standard deviation, taken
    after the running_var transform with the checkpoint's own m. `scale` is the average m and `floor` the smallest
    v / m that the inverse gives back (both unused for other tensors): 0.001 as published, or less where the zoo has
    less, since a clamp above the zoo's own variances would not give them back.
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    floor: Tensor

    @classmethod
    def of(cls, layout: Layout, state_dicts: Iterable[dict[str, Tensor]]) -> "Stats":
        """Statistics over `state_dicts`, which are read once, one after another."""
        count, total = 0, torch.zeros(3, len(layout.tokenised), dtype=torch.float64)
        smallest = torch.full((len(layout.tokenised),), math.inf, dtype=torch.float64)
        for state_dict in state_dicts:
            count += 1
            for k, tensor in enumerate(layout.tokenised):
                weights, scale = state_dict[tensor.name].flatten(), 1.0
                if tensor.is_variance:
                    weights = weights.double()
                    # A network that was never in training mode may have no variance at all: m = 0 would divide by it.
                    scale = VARIANCE_MEAN_SHARE * weights.mean().item() or 1.0
                    smallest[k] = torch.minimum(smallest[k], weights.min())
                    weights = torch.log(weights / scale + VARIANCE_SHIFT)
                std, mean = _std_mean(weights)
                total[:, k] += torch.tensor([mean, std, scale])
        mean, std, scale = total / count
        # A constant tensor has nothing to scale; σ = 1 keeps it as it is instead of making NaN, which means padding.
        std = torch.where(std > CONSTANT * mean.abs(), std, 1.0)
        return cls(mean, std, scale, torch.clamp(smallest / scale, max=VARIANCE_FLOOR))


def _std_mean(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased standard deviation and mean of `weights` [n] in float64, from those of parts (Chan et al. 1983)."""
    # Parts of about one length: none is so short that it has no deviation.
    parts = weights.tensor_split(math.ceil(len(weights) / (16 * CHUNK)))
    variances, means = (torch.stack(of) for of in zip(*(torch.var_mean(part.double()) for part in parts), strict=True))
    counts = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    mean = (means * (counts / len(weights))).sum()
    within = (variances * ((counts - 1) / (len(weights) - 1))).sum()
    return torch.sqrt(within + (counts * (means - mean).square()).sum() / (len(weights) - 1)), mean


def tokenise(state_dict: dict[str, Tensor], layout: Layout, stats: Stats, into: Tensor | None = None) -> Tensor:
    """State dict → tokens [L, D] float32, normalised, NaN where there is no weight; written to `into` if it is given.

    `detokenise` gives each tensor back to within 1e-6 of its largest weight. Low-rank pairs are taken as they are;
    `TokenStore.tokenise` brings them into the zoo's form.
    """
    tokens_LD = torch.empty(layout.length, layout.width) if into is None else into
    exact = torch.empty(CHUNK, dtype=torch.float64)
    for k, tensor in enumerate(layout.tokenised):
        rows = tokens_LD[tensor.first : tensor.first + tensor.tokens].view(-1)
        weights = state_dict[tensor.name].flatten()
        rows[len(weights) :] = math.nan
        for part, row in zip(weights.split(CHUNK), rows[: len(weights)].split(CHUNK), strict=True):
            weight = exact[: len(part)].copy_(part)
            if tensor.is_variance:
                weight.div_(stats.scale[k]).add_(VARIANCE_SHIFT).log_()
            row.copy_(weight.sub_(stats.mean[k]).div_(stats.std[k]))
    return tokens_LD


def detokenise(tokens_LD: Tensor, layout: Layout, stats: Stats, skipped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tokens [..., L, D] → state dict in the layout's order, each tensor [..., *shape], differentiably.

    The tensors that never were tokens are taken from `skipped`, which must have their leading dimensions already.
    """
    # Numbers of Python's: tensors of no dimension would cost as much as the weights. But for the means, to which a
    # multiple of the weights can then be added in one pass.
    means, stds, scales, floors = stats.mean.unbind(), *(values.tolist() for values in [*vars(stats).values()][1:])
    state_dict, k = {}, 0
    for tensor in layout.tensors:
        if not tensor.tokens:
            state_dict[tensor.name] = skipped[tensor.name].clone()
            continue
        rows = tokens_LD[..., tensor.first : tensor.first + tensor.tokens, :].flatten(-2)
        weights = rows[..., : math.prod(tensor.shape)]
        if tensor.is_variance:
            # A small variance is a small difference, which float32 would not give back.
            weights = torch.exp(weights.double() * stds[k] + means[k]) - VARIANCE_SHIFT
            weights = torch.clamp(weights, min=floors[k]) * scales[k]
        else:
            weights = torch.add(means[k], weights, alpha=stds[k])
        state_dict[tensor.name] = weights.to(getattr(torch, tensor.dtype)).unflatten(-1, tensor.shape)
        k += 1
    return state_dict


class TokenStore:
    """The tokens of a zoo on disk, memory-mapped: reading a checkpoint's tokens loads that checkpoint's alone.

    `checkpoints` are the N that became tokens, `held_out` those that did not, `seeds` the seeds of both: the index of
    a checkpoint's seed is its permutation state. Sampling needs layout and statistics only, so tokens.safetensors is
    opened when the first token is read.
    """

    def __init__(self, folder: Path) -> None:
        """Open `folder`; UserError if layout.json or stats.safetensors is missing or was changed."""
        self.folder = folder
        tree = read_sealed(folder / "layout.json", "rpg tokens", TokenLayout)
        self._files: dict[str, str] = {entry["file"]: entry["sha256"] for entry in tree["files"]}
        self.sha256 = sha256(folder / "layout.json")
        self.layout = Layout.from_json(tree["layout"])
        self.checkpoints: list[dict[str, Any]] = tree["checkpoints"]
        self.held_out: list[dict[str, Any]] = tree["held_out"]
        self.seeds: list[int] = tree["seeds"]
        self._lasts: dict[int, dict[str, Tensor]] = {}
        self._check("stats.safetensors")
        tensors = read_tensors(folder / "stats.safetensors")
        try:
            self.stats = Stats(**{name: tensors[f"stats.{name}"] for name in ("mean", "std", "scale", "floor")})
            # [S, *shape] each: what the last checkpoint of each state has where tokens hold nothing.
            self.skipped = {tensor.name: tensors[f"skipped.{tensor.name}"] for tensor in self.layout.skipped}
        except KeyError as error:
            raise UserError(f"{folder / 'stats.safetensors'}: no tensor {error}; run `rpg tokens` again") from error
        counts = {values.shape for values in vars(self.stats).values()}
        states = {tensor.name: (len(self.seeds), *tensor.shape) for tensor in self.layout.skipped}
        if counts != {(len(self.layout.tokenised),)} or any(
            values.shape != states[name] for name, values in self.skipped.items()
        ):
            raise UserError(f"{folder / 'stats.safetensors'}: not of layout.json beside it; run `rpg tokens` again")

    def _check(self, name: str) -> None:
        check_unchanged(self.folder, name, self._files.get(name, ""), "tokenised", "`rpg tokens`")

    @cached_property
    def _slice(self) -> Any:
        self._check("tokens.safetensors")
        path = self.folder / "tokens.safetensors"
        found = safe_open(path, "pt").get_slice("tokens")
        if found.get_shape() != [len(self), self.layout.length, self.layout.width]:
            raise UserError(f"{path}: not of layout.json beside it; run `rpg tokens` again")
        return found

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, index: int) -> Tensor:
        """Tokens [L, D] of checkpoint `index`; UserError if tokens.safetensors is missing or was changed."""
        return self._slice[index]

    def state(self, checkpoint: dict[str, Any]) -> int:
        """The permutation state of a checkpoint: which of the zoo's seeds it came from."""
        return self.seeds.index(checkpoint["seed"])

    def task_set(self, state: int, code: str | None) -> str:
        """What RPG has met of a state and a task code: `seen`, `held_out` (the code) or `held_out_pairs` (the pair).

        Where there is but one task, without a code, `all`.
        """
        if code is None:
            return "all"
        if code not in self._learned:
            return "held_out"
        return "seen" if state in self._learned[code] else "held_out_pairs"

    @cached_property
    def _learned(self) -> dict[str, set[int]]:
        learned: dict[str, set[int]] = {}
        for checkpoint in self.checkpoints:
            learned.setdefault(checkpoint["code"], set()).add(self.state(checkpoint))
        return learned

    def tokenise(self, state_dict: dict[str, Tensor], state: int) -> Tensor:
        """Tokens [L, D] of a network of the permutation state `state`, in the form that the zoo was tokenised in."""
        if self.layout.canonical:
            state_dict = canonical(state_dict, self._last(state))
        return tokenise(state_dict, self.layout, self.stats)

    def _last(self, state: int) -> dict[str, Tensor]:
        """The last checkpoint of a state, as its tokens have it: the reference of the state's low-rank pairs."""
        if state not in self._lasts:
            index = max(index for index, entry in enumerate(self.checkpoints) if self.state(entry) == state)
            tokens_BLD, states_B = self[index].unsqueeze(0), torch.tensor([state])
            self._lasts[state] = {name: of[0] for name, of in self.detokenise(tokens_BLD, states_B).items()}
        return self._lasts[state]

    def detokenise(self, tokens_BLD: Tensor, states_B: Tensor) -> dict[str, Tensor]:
        """Tensors [B, *shape] from `tokens_BLD`, with the skipped tensors of the permutation states `states_B`."""
        skipped = {name: values[states_B.to(values.device)] for name, values in self.skipped.items()}
        return detokenise(tokens_BLD, self.layout, self.stats, skipped)


def read_checkpoint(path: Path, names: list[str]) -> dict[str, Tensor]:
    """The state dict in `path`, in the order of `names`; safetensors itself keeps no order."""
    tensors = read_tensors(path)
    return {name: tensors[name] for name in [*names, *tensors] if name in tensors}


def write_tokens(zoo: Path, params: Tokens, folder: Path) -> None:
    """Tokenise the collected zoo into `folder`, one checkpoint in memory at a time, two if they are adapters."""
    with exclusive(folder):
        # Written last, so its absence says that the store is not whole.
        (folder / "layout.json").unlink(missing_ok=True)
        zoo_checkpoints, names = read_zoo(zoo)
        checkpoints = [checkpoint for checkpoint in zoo_checkpoints if not checkpoint["held_out"]]
        held_out = [checkpoint for checkpoint in zoo_checkpoints if checkpoint["held_out"]]
        paths = [zoo / checkpoint["file"] for checkpoint in checkpoints]
        _check_form(paths[0], params)
        layout = Layout.of(read_checkpoint(paths[0], names), params.width, bool(params.canonical))
        skipped: dict[int, dict[str, Tensor]] = {}

        def checked() -> Iterator[dict[str, Tensor]]:
            for path, checkpoint in zip(paths, checkpoints, strict=True):
                state_dict = read_checkpoint(path, names)
                layout.check(state_dict, path, "leave this checkpoint out of the zoo")
                skipped[checkpoint["seed"]] = {tensor.name: state_dict[tensor.name] for tensor in layout.skipped}
                yield state_dict

        def formed(state_dicts: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
            # The checkpoints of a run follow each other; its first is rotated to the last of the run before.
            before = None
            for state_dict in state_dicts:
                if layout.canonical:
                    state_dict = before = canonical(state_dict, before)
                yield state_dict

        stats = Stats.of(layout, formed(checked()))
        shape = (len(paths), layout.length, layout.width)
        with atomic(folder / "tokens.safetensors") as temporary:
            tokens_NLD = create_safetensors(temporary, "tokens", shape)
            for index, state_dict in enumerate(formed(read_checkpoint(path, names) for path in paths)):
                tokenise(state_dict, layout, stats, into=torch.from_numpy(tokens_NLD[index]))
            tokens_NLD.flush()
        seeds = sorted(skipped)
        tensors = {f"stats.{name}": tensor for name, tensor in vars(stats).items()}
        for tensor in layout.skipped:
            tensors[f"skipped.{tensor.name}"] = torch.stack([skipped[seed][tensor.name] for seed in seeds])
        write_tensors(folder / "stats.safetensors", tensors)
        files = [file_entry(folder / name) for name in ("stats.safetensors", "tokens.safetensors")]
        # Only adapters have a form to speak of.
        described = {key: value for key, value in asdict(layout).items() if value is not False}
        tree = {"layout": described, "checkpoints": checkpoints, "held_out": held_out, "seeds": seeds}
        write_sealed(folder / "layout.json", {**tree, "files": files})


def _check_form(path: Path, params: Tokens) -> None:
    """UserError unless params say of adapters, and of nothing else, whether they are brought into one form."""
    adapters = path.name == "adapter_model.safetensors"
    if adapters != (params.canonical is not None):
        fault = "must be given, true or false, for adapters" if adapters else "is of adapters alone; leave it out"
        raise UserError(f"params.yaml: tokens.canonical: {fault}")


def create_safetensors(path: Path, name: str, shape: tuple[int, ...]) -> np.memmap:
    """A safetensors file of one float32 tensor as a writable memory map; safetensors' own writer wants it in memory."""
    end = 4 * math.prod(shape)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    # On a full disk this raises OSError; writing to a map of a file with holes would end the process.
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, 8 + len(header) + end)
    return np.memmap(path, np.float32, "r+", offset=8 + len(header), shape=shape)
