"""A plain version of the published procedure (arXiv 2501.11587), the reference of the benchmarks.

Two Mamba2 blocks in sequence run under bfloat16, everything else in float32. The state is the checkpoint's index. Each
picked token is noised once. The network predicts the noise. The sampler embeds the prototypes at every step. Each draw
of a checkpoint reads and tokenizes its file. Only the Mamba2 block and the tokenizer are the project's own, so both
procedures share them: the scan is mamba-ssm's kernel on a GPU with this package, the plain scan elsewhere.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from rpg.model.mamba2 import Mamba2
from rpg.tokenizer.store import TokenStore, read_checkpoint
from rpg.utils.device import bfloat16
from rpg.zoo.manifest import read_zoo

T = 1000


class Denoiser(nn.Module):
    """Predict ε of tokens [n, D], each as one channel, by convolutions of (x + condition) · time."""

    def __init__(self, width: int, channels: list[int]) -> None:
        super().__init__()
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(128) / 128))
        self.time_embedder = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.condi_embedder = nn.Linear(width, width)
        pairs = list(pairwise(channels))
        steps = [nn.Sequential(nn.Conv1d(a, b, 7, padding=3), nn.BatchNorm1d(b), nn.ELU()) for a, b in pairs[:-1]]
        steps.append(nn.Sequential(nn.Conv1d(*pairs[-1], 7, padding=3)))
        self.encoders = len(channels) // 2 + 1
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, t: Tensor, prototypes: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        time = self.time_embedder(torch.cat([angles.cos(), angles.sin()], 1))[:, None]
        condition = self.condi_embedder(prototypes)[:, None]
        x, kept = x[:, None], []
        for index, step in enumerate(self.steps):
            if index >= self.encoders:
                x = x + kept.pop()
            x = step((x + condition) * time)
            if index < self.encoders - 2:
                kept.append(x)
        return x[:, 0]


class Published(nn.Module):
    """RPG as published, for `states` checkpoints with tokens of width D at `positions_L2` [L, 2]."""

    def __init__(
        self, positions_L2: Tensor, width: int, recurrent: int, states: int, channels: list[int], state_width: int = 128
    ) -> None:
        super().__init__()
        half = recurrent // 2
        angles = positions_L2[:, :, None] * 10000.0 ** (-2 * torch.arange(half // 2) / half)
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[None])
        self.to_permutation_state = nn.Embedding(states, recurrent)
        nn.init.constant_(self.to_permutation_state.weight, 1 / recurrent)
        self.mamba_forward = nn.Sequential(
            Mamba2(recurrent, state_width=state_width), Mamba2(width, state_width=state_width, input_width=recurrent)
        )
        self.net = Denoiser(width, channels)
        alphas_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), 0)
        self.register_buffer("alphas_bar", alphas_bar.float())

    def prototypes(self, states_B: Tensor) -> Tensor:
        """Return the prototypes [B, L, D], computed under bfloat16."""
        hidden = self.pe + self.to_permutation_state(states_B)[:, None]
        with bfloat16(True, hidden.device):
            return self.mamba_forward(hidden).float()

    def loss(self, tokens_BLD: Tensor, states_B: Tensor, count: int) -> Tensor:
        """Return the mean squared error of the noise of `count` random tokens, without padding (NaN)."""
        prototypes = self.prototypes(states_B).flatten(0, 1)
        tokens = tokens_BLD.flatten(0, 1)
        picks = torch.randperm(len(tokens), device=tokens.device)[:count]
        x0, prototypes = tokens[picks], prototypes[picks]
        padding = torch.isnan(x0)
        x0 = torch.nan_to_num(x0, 0.0)
        t = torch.randint(T, (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        level = self.alphas_bar[t][:, None]
        errors = (self.net(level.sqrt() * x0 + (1 - level).sqrt() * noise, t, prototypes) - noise) ** 2
        errors[padding] = torch.nan
        return errors.nanmean()

    @torch.no_grad()
    def ddim(self, states_B: Tensor, steps: int) -> Tensor:
        """Sample tokens [B, L, D] by DDIM; each step embeds the same prototypes again and checks for NaN."""
        prototypes_BLD = self.prototypes(states_B)
        x = torch.randn_like(prototypes_BLD).flatten(0, 1)
        times = torch.linspace(T - 1, 0, steps).round().long().tolist()
        for now, then in zip(times, [*times[1:], None], strict=True):
            t = torch.full((len(x),), now, device=x.device)
            epsilon = self.net(x, t, prototypes_BLD.flatten(0, 1))
            assert not torch.isnan(epsilon).any()
            level, after = self.alphas_bar[now], self.alphas_bar[then] if then is not None else torch.ones(())
            x0 = (x - (1 - level).sqrt() * epsilon) / level.sqrt()
            x = after.sqrt() * x0 + (1 - after).sqrt() * epsilon
        return x.unflatten(0, prototypes_BLD.shape[:2])


class Files:
    """The checkpoints of a zoo; each access reads and tokenizes the checkpoint's file."""

    def __init__(self, zoo: Path, store: TokenStore) -> None:
        self.paths = [zoo / checkpoint.file for checkpoint in store.checkpoints]
        self.names, self.store = read_zoo(zoo)[1], store

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return the tokens [L, D] of a checkpoint."""
        state = self.store.state(self.store.checkpoints[index])
        return self.store.tokenize(read_checkpoint(self.paths[index], self.names), state)


def training(
    model: Published, files: Files, batch: int, count: int, rate: float, share: Callable[[], float], on: torch.device
) -> Iterator[float]:
    """Take endless steps of AdamW without warm-up, averages or clipping, and yield the losses.

    The learning rate falls along a cosine; `share` returns the finished share of the training.
    """
    optimizer = torch.optim.AdamW(model.to(on).train().parameters(), rate)
    for states_B, tokens_BLD in batches(files, batch):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(share(), 1)))
        loss = model.loss(tokens_BLD.to(on), states_B.to(on), count)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def batches(files: Files, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield endless batches: indices [B] and tokens [B, L, D]."""
    while True:
        order = torch.randperm(len(files)).tolist()
        for start in range(0, len(order) - batch + 1, batch):
            picked = order[start : start + batch]
            yield torch.tensor(picked), torch.stack([files[index] for index in picked])
