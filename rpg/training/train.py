"""Train RPG on the tokens of a zoo: `rpg train --experiment digits-resnet`, with `--processes 4` on four GPUs.

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
from rpg.tokenizer.store import TokenStore
from rpg.training import conditions
from rpg.training.distributed import ALONE, ProcessGroup, joined
from rpg.training.model_file import fresh
from rpg.training.trainer import Loss, Training, run_training
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.rng import derive


def drawn_tokens(
    shape: Sequence[int], count: int, times: int | None, draws: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Picks, times and noise, for `RPG.errors`, of `count` random tokens of [B, L, D], each `draws` times.

    Each with a time of its own or, with `times`, with one of so many, which are evenly spread over all T from a random
    one on (Kingma et al. 2021, appendix I): half of a denoiser's products are of the time alone. The tokens are then a
    multiple of `times`.
    """
    batch, length, width = shape
    picks = torch.randperm(batch * length, generator=draw)[:count].repeat(draws)
    if times:
        groups = min(times, len(picks))
        picks = picks[: len(picks) // groups * groups].unflatten(0, (groups, -1))
        share_G1 = (torch.arange(groups).unsqueeze(1) + torch.rand(1, generator=draw)) / groups
        # The largest share may round to 1.
        t = (T * share_G1).long().clamp(max=T - 1)
    else:
        t = torch.randint(T, picks.shape, generator=draw)
    return picks, t, torch.randn(*picks.shape, width, generator=draw)


def train_loss(
    store: TokenStore, params: Train, asked: Sequence[Condition], on: torch.device, group: ProcessGroup = ALONE
) -> Loss:
    """The diffusion loss on random checkpoints of `store`, dealt out to the processes of `group`.

    Random numbers are those of one process. Each process takes its own checkpoints and the picks among them; the mean
    of the processes' losses, and so that of their gradients, is what one process has for all of them.
    """
    values = conditions.of_checkpoints(asked, store)
    length, width = store.layout.length, store.layout.width

    def draw(draw: torch.Generator) -> tuple[conditions.Values, list[Tensor]]:
        checkpoints = torch.randperm(len(store), generator=draw)[: params.batch].tolist()
        told = conditions.dropped(asked, {name: value[checkpoints] for name, value in values.items()}, draw)
        shape = (len(checkpoints), length, width)
        picks, t, noise = drawn_tokens(shape, params.diffusion_batch, params.times, params.draws, draw)
        own = slice(group.rank, None, group.processes)
        if group.processes > 1:
            row, token = picks // length, picks % length
            mine = row % group.processes == group.rank
            t = t.expand(picks.shape)
            picks, t, noise = (row // group.processes * length + token)[mine], t[mine], noise[mine]
        told = {name: value[own] for name, value in told.items()}
        drawn = [picked_tokens(store, checkpoints[own], picks), picks, t, noise]
        return told, [tensor.pin_memory() for tensor in drawn] if on.type == "cuda" else drawn

    def loss(model: RPG, drawn: tuple[conditions.Values, list[Tensor]]) -> Tensor:
        told, tensors = drawn
        on_device = [tensor.to(on, non_blocking=True) for tensor in tensors]
        total, count = model({name: value.to(on) for name, value in told.items()}, *on_device)
        return total * group.processes / group.sum(count) if group.processes > 1 else total / count

    return Loss(draw, loss)


def picked_tokens(store: TokenStore, checkpoints: Sequence[int], picks: Tensor) -> Tensor:
    """Tokens [..., D] number `picks` [...] of those of the `checkpoints`; of the others nothing is read."""
    tokens = torch.empty(*picks.shape, store.layout.width)
    row, token = picks // store.layout.length, picks % store.layout.length
    for index, checkpoint in enumerate(checkpoints):
        mine = row == index
        tokens[mine] = store[checkpoint][token[mine]]
    return tokens


def train_rpg(experiment: Experiment, tokens: Path, folder: Path, seconds: Path) -> None:
    """Train on the token store `tokens` and write the model into `folder`, and the time it took to `seconds`.

    Raises Diverged if the training does, UserError if there are more processes than checkpoints in a batch.
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
        run_training(training, folder, seconds, experiment.model, experiment.diffusion, store, [blocks, store.sha256])
