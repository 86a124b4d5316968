"""Train RPG on the tokens of a zoo: `rpg train --experiment digits-resnet`, on four GPUs with `--processes 4`.

Writes rpg/model.safetensors (EMA weights), rpg/config.json and rpg/log.csv.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.config.model import Condition
from rpg.config.training import Train
from rpg.model.diffusion import T
from rpg.model.rpg import RPG
from rpg.sources import code_digest
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import Values, checkpoint_values, drop_states, drop_vectors
from rpg.training.distributed import ALONE, ProcessGroup, joined
from rpg.training.model_file import fresh
from rpg.training.trainer import Loss, Training, run_training
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.rng import derive


def drawn_tokens(
    shape: Sequence[int], count: int, times: int | None, draws: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw picks, times and noise for `RPG.errors`: `count` random tokens of `shape` [B, L, D], each `draws` times.

    By default each token has its own diffusion time. With `times`, the tokens share that many times, evenly spread over
    all T with a random offset (Kingma et al. 2021, appendix I), and the number of tokens is a multiple of `times`.
    Shared times are cheaper: half of a denoiser's products depend on the time alone.
    """
    batch, length, width = shape
    picks = torch.randperm(batch * length, generator=draw)[:count].repeat(draws)
    if times:
        groups = min(times, len(picks))
        picks = picks[: len(picks) // groups * groups].unflatten(0, (groups, -1))
        share_G1 = (torch.arange(groups).unsqueeze(1) + torch.rand(1, generator=draw)) / groups
        # The largest share may round to 1, so t may round to T.
        t = (T * share_G1).long().clamp(max=T - 1)
    else:
        t = torch.randint(T, picks.shape, generator=draw)
    return picks, t, torch.randn(*picks.shape, width, generator=draw)


def train_loss(
    store: TokenStore, params: Train, conditions: Sequence[Condition], on: torch.device, group: ProcessGroup = ALONE
) -> Loss:
    """Return the diffusion loss on random checkpoints of `store`, split over the processes of `group`.

    All processes draw the same random numbers. Each process takes its own checkpoints and their tokens. The mean of the
    processes' losses, and of their gradients, equals the loss and gradient of a single process.
    """
    values = checkpoint_values(conditions, store)
    length, width = store.layout.length, store.layout.width

    def draw(draw: torch.Generator) -> tuple[Values, list[Tensor]]:
        checkpoints = torch.randperm(len(store), generator=draw)[: params.batch].tolist()
        chosen = drop_states(conditions, {name: value[checkpoints] for name, value in values.items()}, draw)
        chosen = drop_vectors(conditions, chosen, draw)
        shape = (len(checkpoints), length, width)
        picks, t, noise = drawn_tokens(shape, params.diffusion_batch, params.times, params.draws, draw)
        own = slice(group.rank, None, group.processes)
        if group.processes > 1:
            row, token = picks // length, picks % length
            mine = row % group.processes == group.rank
            t = t.expand(picks.shape)
            picks, t, noise = (row // group.processes * length + token)[mine], t[mine], noise[mine]
        chosen = {name: value[own] for name, value in chosen.items()}
        drawn = [picked_tokens(store, checkpoints[own], picks), picks, t, noise]
        return chosen, [tensor.pin_memory() for tensor in drawn] if on.type == "cuda" else drawn

    def loss(model: RPG, drawn: tuple[Values, list[Tensor]]) -> Tensor:
        chosen, tensors = drawn
        on_device = [tensor.to(on, non_blocking=True) for tensor in tensors]
        total, count = model({name: value.to(on) for name, value in chosen.items()}, *on_device)
        return total * group.processes / group.sum(count) if group.processes > 1 else total / count

    return Loss(draw, loss)


def picked_tokens(store: TokenStore, checkpoints: Sequence[int], picks: Tensor) -> Tensor:
    """Read the tokens [..., D] at the indices `picks` [...] into the tokens of `checkpoints`, and no other tokens."""
    tokens = torch.empty(*picks.shape, store.layout.width)
    row, token = picks // store.layout.length, picks % store.layout.length
    for index, checkpoint in enumerate(checkpoints):
        mine = row == index
        tokens[mine] = store[checkpoint][token[mine]]
    return tokens


def train_rpg(experiment: Experiment, tokens: Path, folder: Path, seconds: Path) -> None:
    """Train on the token store `tokens`; write the model into `folder` and the training time into `seconds`.

    Raises Diverged if the training diverges, and UserError if a batch has fewer checkpoints than there are processes.
    """
    params, on = experiment.train, device()
    store = TokenStore(tokens)
    with joined(on) as group:
        batch = min(params.batch, len(store))
        if group.processes > batch:
            raise UserError(
                f"{group.processes} processes: each needs a checkpoint of its own, and a batch has {batch}; "
                "raise train.batch in params.yaml or take fewer"
            )
        torch.manual_seed(derive(params.seed, "train", "weights"))
        model = fresh(experiment.model, experiment.diffusion, store)
        loss = train_loss(store, params, experiment.model.conditions, on, group)
        training = Training(params, model, loss, "train", on, group, params.sharded)
        blocks = experiment.model_dump(include={"model", "diffusion", "train"})
        learns_from = [blocks, store.sha256, code_digest("train", experiment.task)]
        run_training(training, folder, seconds, experiment.model, experiment.diffusion, store, learns_from)
