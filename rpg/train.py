"""Train RPG on the tokens of a zoo: `rpg train --experiment digits-resnet`.

Writes rpg/model.safetensors (EMA weights), rpg/config.json and rpg/log.csv. While it runs, rpg/state/ holds what a
killed run goes on from; on a CPU it ends in the same bytes as a run that was never killed.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rpg import conditions
from rpg.device import bfloat16_products, device
from rpg.errors import UserError
from rpg.files import (
    check_unchanged,
    exclusive,
    file_entry,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from rpg.model.diffusion import T
from rpg.model.recurrent import Tokens
from rpg.model.rpg import RPG
from rpg.params import Condition, Diffusion, Experiment, File, Generator, Model, Optimization, Train
from rpg.progress import progress
from rpg.seeds import derive, generator
from rpg.tokens import TokenStore

LOG_EVERY = 10
LOG_HEADER = "step,loss,learning_rate\n"


def learning_rate(params: Optimization, step: int) -> float:
    """Linear warm-up over the share `warmup` of the steps, then cosine down to zero; `step` counts from 1."""
    warmup = params.warmup * params.steps
    if step < warmup:
        return params.learning_rate * step / warmup
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (params.steps - warmup)))


# The loss of a model; random numbers come from the generator.
Loss = Callable[[RPG, torch.Generator], Tensor]


class Training:
    """A model, its EMA and its optimizer, at one step of training; `save` and `resume` carry all of it across a kill.

    `layer` is the name under which the random numbers of each step are drawn.
    """

    def __init__(self, params: Optimization, model: RPG, loss: Loss, layer: str, on: torch.device) -> None:
        self.params, self.loss, self.layer, self.on = params, loss, layer, on
        self.model = model.to(on).train()
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.params.ema))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), self.params.learning_rate, weight_decay=self.params.weight_decay, fused=True
        )
        self.step, self.seconds, self.log = 0, 0.0, LOG_HEADER

    def one_step(self) -> Tensor:
        """Take one optimizer step; returns the loss, on the device. Its random numbers depend on the step alone."""
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.params, self.step)
        bfloat16 = self.params.precision == "bfloat16"
        with bfloat16_products(bfloat16):
            with torch.autocast(self.on.type, torch.bfloat16, enabled=bfloat16 and self.on.type == "cuda"):
                loss = self.loss(self.model, generator(self.params.seed, self.layer, self.step))
            self.optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.gradient_clip)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss.detach()

    def save(self, path: Path, fingerprint: str) -> None:
        """Write everything that the next step depends on; `fingerprint` says what it was trained on."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": tensor for slot, tensor in slots.items()}
        facts = {"fingerprint": fingerprint, "step": self.step, "seconds": self.seconds, "log": self.log}
        tensors["facts"] = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        write_tensors(path, tensors)

    def resume(self, path: Path, fingerprint: str) -> bool:
        """Go on from `path`, if it was saved by a training of the same fingerprint; False if it was not."""
        try:
            tensors = read_tensors(path)
            facts = json.loads(bytes(tensors.pop("facts").tolist()))
        except (UserError, KeyError, ValueError):
            # Writing is atomic, so only a damaged disk or a hand can do this; the training can always start over.
            print(f"{path}: not a whole state; starting over", flush=True)
            return False
        if facts["fingerprint"] != fingerprint:
            return False
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.step, self.seconds, self.log = facts["step"], facts["seconds"], facts["log"]
        return True


def build(model: Model, diffusion: Diffusion, store: TokenStore) -> RPG:
    """A new RPG for the tokens in `store`; UserError if the model's widths do not fit together."""
    layout = store.layout
    sizes = {name: values.shape[1] for name, values in conditions.of_checkpoints(model.conditions, store).items()}
    try:
        return RPG(
            model, Tokens(layout.positions(), layout.head()), width=layout.width, sizes=sizes, target=diffusion.target
        )
    except ValueError as error:
        raise UserError(f"params.yaml: model: {error}") from error


def diffusion_loss(model: RPG, tokens_BLD: Tensor, prototypes_BLW: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """The diffusion loss on `count` random tokens of those given, at random times."""
    picks = torch.randperm(tokens_BLD.shape[0] * tokens_BLD.shape[1], generator=draw)[:count]
    t = torch.randint(T, picks.shape, generator=draw)
    noise = torch.randn(len(picks), tokens_BLD.shape[2], generator=draw)
    on = tokens_BLD.device
    return model.loss(tokens_BLD, prototypes_BLW, picks.to(on), t.to(on), noise.to(on))


def train_loss(store: TokenStore, params: Train, asked: Sequence[Condition], on: torch.device) -> Loss:
    """The diffusion loss on random checkpoints of `store`."""
    values = conditions.of_checkpoints(asked, store)

    def loss(model: RPG, draw: torch.Generator) -> Tensor:
        checkpoints = torch.randperm(len(store), generator=draw)[: params.batch].tolist()
        tokens_BLD = torch.stack([store[index] for index in checkpoints]).to(on)
        told = conditions.dropped(asked, {name: value[checkpoints] for name, value in values.items()}, draw)
        prototypes_BLW = model.recurrent({name: value.to(on) for name, value in told.items()})
        return diffusion_loss(model, tokens_BLD, prototypes_BLW, params.diffusion_batch, draw)

    return loss


def train_rpg(experiment: Experiment, tokens: Path, folder: Path, seconds: Path) -> None:
    """Train on the token store `tokens` and write the model into `folder`, and the time it took to `seconds`.

    Raises UserError if the loss stops being finite.
    """
    params, on = experiment.train, device()
    store = TokenStore(tokens)
    torch.manual_seed(derive(params.seed, "train", "weights"))
    model = build(experiment.model, experiment.diffusion, store)
    loss = train_loss(store, params, experiment.model.conditions, on)
    training = Training(params, model, loss, "train", on)
    blocks = experiment.model_dump(include={"model", "diffusion", "train"})
    run_training(training, folder, seconds, experiment.model, experiment.diffusion, store, [blocks, store.sha256])


def run_training(
    training: Training,
    folder: Path,
    seconds: Path,
    model: Model,
    diffusion: Diffusion,
    store: TokenStore,
    learns_from: list[Any],
) -> None:
    """Take all steps, from where a killed run stopped, and write the model into `folder`, the time to `seconds`.

    `model` and `diffusion` are the blocks that the model was built from. A state that is there to resume is of this
    training if `learns_from`, what decides its bytes, is the same.
    """
    layer = training.layer
    with exclusive(folder):
        fingerprint = hashlib.sha256(json.dumps(learns_from, sort_keys=True).encode()).hexdigest()
        state = folder / "state" / "state.safetensors"
        # Written last, so its absence says that the folder is not whole.
        (folder / "config.json").unlink(missing_ok=True)
        if state.is_file() and training.resume(state, fingerprint):
            print(f"{layer}: going on from step {training.step}", flush=True)
        _run(training, state, fingerprint)
        write_model(folder, training.average.module, training.log, model, diffusion, store)
        write_json(seconds, {"seconds": round(training.seconds, 3), "steps": training.step})
        shutil.rmtree(state.parent, ignore_errors=True)


def write_model(
    folder: Path, network: torch.nn.Module, log: str, model: Model, diffusion: Diffusion, store: TokenStore
) -> None:
    """Write a trained RPG, its log and, last, config.json, which says what it was built from and vouches for both."""
    write_tensors(folder / "model.safetensors", network.state_dict())
    write_text(folder / "log.csv", log)
    config = Generator(
        model=model,
        diffusion=diffusion,
        width=store.layout.width,
        length=store.layout.length,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        tokens=store.sha256,
        files=[File(**file_entry(folder / name)) for name in ("log.csv", "model.safetensors")],
    )
    write_json(folder / "config.json", config.model_dump())


def _run(training: Training, state: Path, fingerprint: str) -> None:
    """Take the steps that are left, logging and saving on the way."""
    steps, started, before = training.params.steps, time.perf_counter(), training.seconds
    total, layer = torch.zeros((), device=training.on), training.layer
    for step in progress(range(training.step + 1, steps + 1), layer, done=training.step, total=steps):
        total += training.one_step()
        if step % LOG_EVERY and step != steps:
            continue
        # Read only here: a number read from the GPU at every step would make it wait.
        loss = total.item() / ((step - 1) % LOG_EVERY + 1)
        total.zero_()
        if not math.isfinite(loss):
            raise UserError(f"{layer}: the loss is {loss} at step {step}; lower {layer}.learning_rate in params.yaml")
        training.log += f"{step},{loss:.6g},{learning_rate(training.params, step):.6g}\n"
        training.seconds = before + time.perf_counter() - started
        if step % training.params.state_every == 0 and step != steps:
            training.save(state, fingerprint)


def read_config(folder: Path) -> Generator:
    """config.json in `folder`; UserError if it is missing or not whole."""
    path = folder / "config.json"
    try:
        return Generator.model_validate_json(json.dumps(read_json(path, maker(folder))))
    except ValueError as error:
        raise UserError(f"{path}: not written by this version; run `{maker(folder)}` again") from error


def maker(folder: Path) -> str:
    """The command that writes the model in `folder`."""
    return "rpg train" if folder.name == "rpg" else f"rpg {folder.name}"


def load_rpg(folder: Path, store: TokenStore, on: torch.device) -> RPG:
    """The trained RPG in `folder`, ready to sample; UserError if it is missing or was trained on other tokens."""
    config = read_config(folder)
    if config.tokens != store.sha256:
        raise UserError(f"{folder}: trained on tokens of another zoo; run `{maker(folder)}` again")
    model = build(config.model, config.diffusion, store)
    path = folder / "model.safetensors"
    expected = {entry.file: entry.sha256 for entry in config.files}
    check_unchanged(path, expected.get(path.name, ""), "trained", f"`{maker(folder)}`")
    try:
        model.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit config.json beside it; run `{maker(folder)}` again") from error
    return model.to(on).eval()
