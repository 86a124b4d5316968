"""The token store: the tokens of a zoo on disk, with their layout and statistics."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rpg.tokenizer.canonical import canonical
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.manifest import TokenLayout
from rpg.tokenizer.normalization import tokenize
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.utils.artifacts import Set
from rpg.utils.errors import UserError
from rpg.utils.files import (
    check_unchanged,
    read_sealed,
    read_tensors,
    sha256,
)
from rpg.zoo.manifest import Checkpoint


class TokenStore(Tokenizer):
    """A zoo's tokenizer and its memory-mapped tokens: reading one checkpoint's tokens loads no other checkpoint.

    `checkpoints` lists the N tokenized checkpoints, `held_out` the others, `seeds` the seeds of the former. The index
    of a checkpoint's seed is its permutation state. Sampling needs only layout and statistics, so tokens.safetensors is
    opened when the first token is read.
    """

    def __init__(self, folder: Path) -> None:
        """Open `folder`; UserError if layout.json or stats.safetensors is missing or was changed."""
        self.folder = folder
        manifest = read_sealed(folder / "layout.json", "rpg tokens", TokenLayout)
        self._files = {entry.file: entry.sha256 for entry in manifest.files}
        self.sha256 = sha256(folder / "layout.json")
        self.checkpoints: list[Checkpoint] = manifest.checkpoints
        self.held_out: list[Checkpoint] = manifest.held_out
        self.seeds: list[int] = manifest.seeds
        self._lasts: dict[int, dict[str, Tensor]] = {}
        self._check("stats.safetensors")
        tensors = read_tensors(folder / "stats.safetensors")
        try:
            own = Tokenizer.of_tensors(Layout.of_form(manifest.layout), tensors, len(self.seeds))
        except ValueError as error:
            why = f"does not fit layout.json ({error})"
            raise UserError(f"{folder / 'stats.safetensors'}: {why}; run `rpg tokens` again") from error
        super().__init__(own.layout, own.stats, own.skipped)

    def _check(self, name: str) -> None:
        check_unchanged(self.folder, name, self._files.get(name, ""), "tokenized", "`rpg tokens`")

    @cached_property
    def _slice(self) -> Any:
        self._check("tokens.safetensors")
        path = self.folder / "tokens.safetensors"
        tokens = safe_open(path, "pt").get_slice("tokens")
        if tokens.get_shape() != [len(self), self.layout.length, self.layout.width]:
            raise UserError(f"{path}: does not fit layout.json; run `rpg tokens` again")
        return tokens

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, index: int) -> Tensor:
        """Return the tokens [L, D] of checkpoint `index`; UserError if tokens.safetensors is missing or was changed."""
        return self._slice[index]

    def state(self, checkpoint: Checkpoint) -> int:
        """Return the permutation state of a checkpoint: the index of its seed in `seeds`.

        Runs that are held out as a whole have the numbers after those, which RPG does not know.
        """
        return self._states[checkpoint.seed]

    @cached_property
    def _states(self) -> dict[int, int]:
        seeds = dict.fromkeys([*self.seeds, *(checkpoint.seed for checkpoint in self.held_out)])
        return {seed: state for state, seed in enumerate(seeds)}

    def task_set(self, state: int, code: str | None) -> Set:
        """Return the set of a (state, code) pair, by what RPG saw in training.

        `seen`: RPG saw the pair. `held_out`: it never saw the code. `held_out_pairs`: it saw the code, but only with
        other states. `all`: there are no task codes.
        """
        if code is None:
            return "all"
        if code not in self._learned:
            return "held_out"
        return "seen" if state in self._learned[code] else "held_out_pairs"

    @cached_property
    def _learned(self) -> dict[str | None, set[int]]:
        learned: dict[str | None, set[int]] = {}
        for checkpoint in self.checkpoints:
            learned.setdefault(checkpoint.code, set()).add(self.state(checkpoint))
        return learned

    def tokenize(self, state_dict: dict[str, Tensor], state: int) -> Tensor:
        """Return the tokens [L, D] of a network of permutation state `state`, with low-rank pairs in canonical form."""
        if self.layout.canonical:
            state_dict = canonical(state_dict, self._last(state))
        return tokenize(state_dict, self.layout, self.stats)

    def _last(self, state: int) -> dict[str, Tensor]:
        """Return the last checkpoint of a state, decoded from its tokens: the reference for its low-rank pairs.

        A run that is held out as a whole is compared with the first state.
        """
        state = state if state < len(self.seeds) else 0
        if state not in self._lasts:
            index = max(index for index, entry in enumerate(self.checkpoints) if self.state(entry) == state)
            tokens_BLD, states_B = self[index].unsqueeze(0), torch.tensor([state])
            self._lasts[state] = {name: of[0] for name, of in self.detokenize(tokens_BLD, states_B).items()}
        return self._lasts[state]


def read_checkpoint(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Return the state dict in `path`, in the order of `names`, because safetensors keeps no order."""
    tensors = read_tensors(path)
    return {name: tensors[name] for name in [*names, *tensors] if name in tensors}
