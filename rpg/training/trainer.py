"""Train a model with any loss: optimizer, EMA, log, resumable state and a check for divergence.

While a training runs, <folder>/state/ holds its state. A stopped training resumes from this state, with any number of
processes. On a CPU, a resumed training in a single process ends in the same bytes as an uninterrupted one. On SIGTERM
or Ctrl-C a training saves its state and exits with code 143 or 130.
"""

import hashlib
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rpg.config.model import Diffusion, Model
from rpg.config.training import Optimization
from rpg.model.rpg import RPG
from rpg.tokenizer.store import TokenStore
from rpg.training.distributed import ALONE, ProcessGroup, fill, local, whole
from rpg.training.model_file import write_model
from rpg.utils.device import bfloat16, describe, worth_compiling
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import (
    exclusive,
    read_tensors,
    write_sealed,
    write_tensors,
)
from rpg.utils.progress import progress
from rpg.utils.rng import generator
from rpg.utils.signals import postponed

LOG_EVERY = 10
# On a GPU, threads draw this many later steps in advance: drawing a step takes one thread as long as training it.
AHEAD = 3
LOG_HEADER = "step,loss,learning_rate\n"
# A finite loss has also diverged if it exceeds max(first loss, 1) by this factor.
BOUND = 1000


def learning_rate(params: Optimization, step: int) -> float:
    """Return the rate at `step` (from 1): linear warm-up for the share `warmup` of the steps, then cosine to zero."""
    warmup = params.warmup * params.steps
    if step < warmup:
        return params.learning_rate * step / warmup
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (params.steps - warmup)))


@dataclass(frozen=True)
class Loss:
    """A loss in two parts: `draw` draws a step's inputs, `compute` computes the loss of a model for these inputs.

    `draw` runs on the CPU. While a GPU computes a step, threads call `draw` for the next steps.
    """

    draw: Callable[[torch.Generator], Any]
    compute: Callable[[RPG, Any], Tensor]


class Training:
    """A model, its EMA and its optimizer at one step of training; `save` and `resume` write and read all of them.

    `stage` is part of the seed of each step's random numbers. The processes of `group` take each step together. Each
    process holds the whole model, or, if `sharded`, a shard of the model.
    """

    def __init__(
        self,
        params: Optimization,
        model: RPG,
        loss: Loss,
        stage: str,
        on: torch.device,
        group: ProcessGroup = ALONE,
        sharded: bool = False,
    ) -> None:
        self.params, self.loss, self.stage, self.on, self.group = params, loss, stage, on, group
        self.model = model.to(on).train()
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if params.checkpointing:
            model.recompute()
        if worth_compiling(on, model.width) and not (params.checkpointing or sharded):
            for part in model.units():
                part.compile()
        self.network = group.spread(model, sharded, on)
        self.averages = {name: parameter.detach() for name, parameter in model.named_parameters()}
        if params.ema:
            self.averages = {name: tensor.clone() for name, tensor in self.averages.items()}
        self.optimizer = _optimizer(params, model)
        self.step, self.seconds, self.log = 0, 0.0, LOG_HEADER
        # Threads suffice, because torch computes outside of Python's lock. A child process would also receive SIGTERM.
        self._drawing = ThreadPoolExecutor(AHEAD) if on.type == "cuda" else None
        self._ahead: dict[int, Future[Any]] = {}

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (from 1)."""
        return learning_rate(self.params, step)

    def _draw(self, step: int) -> Any:
        return self.loss.draw(generator(self.params.seed, self.stage, step))

    def _drawn(self) -> Any:
        """Return this step's inputs, and start to draw the next steps' inputs."""
        if self._drawing is None:
            return self._draw(self.step)
        for step in range(self.step, self.step + AHEAD + 1):
            if step not in self._ahead:
                self._ahead[step] = self._drawing.submit(self._draw, step)
        return self._ahead.pop(self.step).result()

    def one_step(self) -> Tensor:
        """Take one optimizer step; return the loss, on the device. Random numbers depend on seed, stage and step."""
        self.step += 1
        rate = self.rate(self.step)
        for group in self.optimizer.param_groups:
            # torchao's optimizer accepts the learning rate as a tensor only.
            group["lr"] = torch.tensor(rate) if isinstance(group["lr"], Tensor) else rate
        with bfloat16(self.params.precision == "bfloat16", self.on):
            # DistributedDataParallel accepts the arguments of the model inside.
            loss = self.loss.compute(self.network, self._drawn())  # type: ignore[arg-type]
        self.optimizer.zero_grad()
        loss.backward()
        if self.params.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.gradient_clip)
        self.optimizer.step()
        if self.params.ema:
            averages = [local(tensor) for tensor in self.averages.values()]
            weights = [local(parameter.detach()) for parameter in self.model.parameters()]
            if self.step == 1:
                torch._foreach_copy_(averages, weights)
            else:
                get_ema_multi_avg_fn(self.params.ema)(averages, weights, self.step)
        return loss.detach()

    def finite(self) -> bool:
        """Return whether all weights of all processes are finite."""
        parts = [local(parameter.detach()) for parameter in self.model.parameters()]
        wrong = sum((~part.isfinite()).sum() for part in parts)
        return not self.group.sum(torch.as_tensor(wrong, device=self.on))

    def averaged(self) -> dict[str, Tensor]:
        """Return the whole state dict with averaged weights in the first process, an empty dict in the others."""
        state = self.model.state_dict()
        return self._whole((name, self.averages.get(name, tensor)) for name, tensor in state.items())

    def save(self, path: Path, fingerprint: str) -> None:
        """Write all tensors that the next step needs; `fingerprint` identifies params, inputs and code."""
        tensors = self._whole(self._state())
        if self.group.first:
            facts = {"fingerprint": fingerprint, "step": self.step, "seconds": self.seconds, "log": self.log}
            tensors["facts"] = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
            write_tensors(path, tensors)

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.model.state_dict().items():
            yield f"model.{name}", tensor
        if self.params.ema:
            for name, tensor in self.averages.items():
                yield f"average.{name}", tensor
        for index, slots in self.optimizer.state_dict()["state"].items():
            for slot, tensor in slots.items():
                yield f"optimizer.{index}.{slot}", tensor

    def _whole(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name, tensor in tensors:
            # All processes gather the tensor; only the first keeps it.
            parts = whole(tensor)
            if self.group.first:
                state |= {f"{name}{part}": values.detach().cpu() for part, values in parts.items()}
        return state

    def resume(self, path: Path, fingerprint: str) -> bool:
        """Load the state in `path` and return True, or return False if it is damaged or has another fingerprint."""
        try:
            tensors = read_tensors(path)
            facts = json.loads(bytes(tensors.pop("facts").tolist()))
        except (UserError, KeyError, ValueError):
            # Writing is atomic, so only a damaged disk or a manual edit leaves such a file. Starting over is safe.
            if self.group.first:
                print(f"{path}: not a whole state; starting over", flush=True)
            return False
        if facts["fingerprint"] != fingerprint:
            if self.group.first:
                print(f"{path}: params, code or inputs have changed since this state; starting over", flush=True)
            return False
        for name, tensor in self.model.state_dict().items():
            fill(tensor, tensors[f"model.{name}"])
        if self.params.ema:
            for name, tensor in self.averages.items():
                fill(tensor, tensors[f"average.{name}"])
        slots = {
            index: {
                "step": tensors[f"optimizer.{index}.step"].clone(),
                "exp_avg": self._moments(parameter, tensors, f"optimizer.{index}.exp_avg"),
                "exp_avg_sq": self._moments(parameter, tensors, f"optimizer.{index}.exp_avg_sq"),
            }
            for index, parameter in enumerate(self.model.parameters())
            # A parameter that has not learned yet has no moments.
            if f"optimizer.{index}.step" in tensors
        }
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.step, self.seconds, self.log = facts["step"], facts["seconds"], facts["log"]
        return True

    def _moments(self, parameter: Tensor, tensors: dict[str, Tensor], name: str) -> Tensor:
        if self.params.optimizer == "adamw":
            moments = torch.zeros_like(parameter.detach())
            fill(moments, tensors[name])
            return moments
        from rpg.training.adamw8bit import eight_bits

        signed = name.endswith("exp_avg")
        moments = self.optimizer._new_buffer(parameter.detach(), signed)  # type: ignore[attr-defined]
        fill(moments, eight_bits(tensors, name, signed))
        return moments


def _optimizer(params: Optimization, model: RPG) -> torch.optim.Optimizer:
    beta_1, beta_2 = params.betas
    options: dict[str, Any] = {"betas": (beta_1, beta_2), "weight_decay": params.weight_decay}
    if params.optimizer == "adamw8bit":
        from rpg.training.adamw8bit import AdamW8bit

        return AdamW8bit(model.parameters(), params.learning_rate, **options)
    return torch.optim.AdamW(model.parameters(), params.learning_rate, fused=True, **options)


def run_training(
    training: Training,
    folder: Path,
    seconds: Path,
    model: Model,
    diffusion: Diffusion,
    store: TokenStore,
    learns_from: list[Any],
) -> None:
    """Take all steps, or resume a stopped training; write the model into `folder` and the time into `seconds`.

    `model` and `diffusion` are the blocks of the model's configuration. `learns_from` holds all params and hashes that
    decide the model's bytes, the code's among them: an existing state is resumed only if its `learns_from` is equal.
    Raises Diverged if the training diverges, and UserError if the processes do not share `folder`.
    """

    def write(state_dict: dict[str, Tensor]) -> None:
        write_model(folder, state_dict, training.parameters, training.log, model, diffusion, store)

    take_steps(training, folder, seconds, learns_from, write)


def take_steps(
    training: Training,
    folder: Path,
    seconds: Path,
    learns_from: list[Any],
    write: Callable[[dict[str, Tensor]], None],
) -> None:
    """Take all steps as `run_training` does, for a model that `write` writes into `folder`."""
    stage, group = training.stage, training.group
    with exclusive(folder) if group.first else nullcontext():
        group.wait()
        fingerprint = hashlib.sha256(json.dumps(learns_from, sort_keys=True).encode()).hexdigest()
        state = folder / "state" / "state.safetensors"
        if group.first:
            # config.json is written last, so a folder without it is incomplete.
            (folder / "config.json").unlink(missing_ok=True)
        resumed = state.is_file() and training.resume(state, fingerprint)
        if group.sum(torch.tensor(training.step, device=training.on)) != group.processes * training.step:
            raise UserError(f"{state}: differs between processes; put {folder} on a disk that all processes share")
        if resumed and group.first:
            print(f"{stage}: going on from step {training.step}", flush=True)
        _run(training, state, fingerprint)
        tensors = training.averaged()
        if not group.first:
            return
        write(tensors)
        facts = {"seconds": round(training.seconds, 3), "steps": training.step, "device": describe(training.on)}
        write_sealed(seconds, facts)
        shutil.rmtree(state.parent, ignore_errors=True)


def _run(training: Training, state: Path, fingerprint: str) -> None:
    """Take the remaining steps; log the loss and save the state on the way."""
    steps, started, before = training.params.steps, time.perf_counter(), training.seconds
    total, stage, group = torch.zeros((), device=training.on), training.stage, training.group
    left: Iterable[int] = range(training.step + 1, steps + 1)

    def logged() -> str:
        """Return the last loss of the log; a note must not wait for the other processes."""
        last = training.log.splitlines()[-1].split(",")
        return f"loss {float(last[1]):.3g}" if last[0].isdigit() else ""

    with postponed() as signalled:
        for step in progress(left, stage, done=training.step, total=steps, note=logged) if group.first else left:
            total += training.one_step()
            if step % LOG_EVERY and step != steps:
                continue
            # Read the loss only here: reading it at every step would make the GPU wait.
            loss = group.sum(total).item() / group.processes / ((step - 1) % LOG_EVERY + 1)
            total.zero_()
            training.log += f"{step},{loss:.6g},{training.rate(step):.6g}\n"
            training.seconds = before + time.perf_counter() - started
            first = float(training.log.split("\n", 2)[1].split(",")[1])
            # All processes stop at the same step, even if only one received the signal.
            stop = step != steps and bool(group.sum(torch.tensor(signalled(), device=training.on)))
            due = stop or step == steps or step % training.params.state_every == 0
            if not math.isfinite(loss) or loss > BOUND * max(first, 1):
                raise Diverged(_diverged(stage, step, f"the loss is {loss:.6g}", training.log, state))
            if due and not training.finite():
                raise Diverged(_diverged(stage, step, "weights are NaN or Inf", training.log, state))
            if due and step != steps:
                training.save(state, fingerprint)
            if stop:
                if group.first:
                    print(f"{stage}: stopped at step {step}, which the same command goes on from", flush=True)
                sys.exit(128 + (signalled() or signal.SIGTERM))


def _diverged(stage: str, step: int, what: str, log: str, state: Path) -> str:
    """Return the message of a divergence: the cause, the step, and the keys to change."""
    _, *lines = log.splitlines()
    good = [line.split(",") for line in lines[:-1]]
    before = f", after a loss of {good[-1][1]} at step {good[-1][0]}" if good else ""
    kept = f"; the state before it is in {state}" if state.is_file() else ""
    return (
        f"{stage}: diverged, {what} at step {step}{before}{kept};"
        f" lower {stage}.learning_rate, set a smaller {stage}.gradient_clip, or raise {stage}.warmup, in params.yaml"
    )
