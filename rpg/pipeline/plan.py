"""What training RPG will take, before anything runs: `rpg plan --experiment imagenet-vit_base`, or `rpg plan --all`.

One step of the training is taken with tensors that have no memory (torch's FakeTensorMode), so neither data nor a GPU
is needed; torch's MemTracker counts the bytes that would be in use at its peak, its FlopCounterMode the operations.
What a library's kernels need besides, and what an allocator leaves unused, is not counted.
"""

import gc
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.model.backbones import TokenPositions
from rpg.model.conditions import condition_name
from rpg.model.rpg import RPG
from rpg.pipeline.prerequisites import missing
from rpg.tasks.base import Task
from rpg.tasks.config import BaseConfig
from rpg.tasks.loading import load_task
from rpg.tokenizer.layout import Layout
from rpg.utils import task_codes
from rpg.utils.device import bfloat16, has_bfloat16
from rpg.utils.errors import UserError

GB = 1e9
FLOAT32 = 4
# Of a data sheet's operations per second, what a training reaches: that of the published RPG for ViT-Tiny, 4.1 hours
# for 50,000 steps on an H100 (arXiv 2501.11587), reaches this share.
SHARE = 0.13
# Bytes of the optimizer's state for each weight; of the one with 8 bits a float for each 256 moments, too.
MOMENTS = {"adamw": 2 * FLOAT32, "adamw8bit": 2 * (1 + FLOAT32 / 256)}


@dataclass(frozen=True)
class Device:
    """Operations per second of products of dense matrices, by precision, and bytes of memory.

    bfloat16 is torch's autocast, which changes what is kept for the backward pass, too.
    """

    bfloat16: float
    float32: float
    memory: float
    gpu: bool = True
    share: float = SHARE


# As data sheets have them; float32 is not rounded to TF32.
GPUS = {
    "h100": Device(989e12, 67e12, 80 * GB),
    "h200": Device(989e12, 67e12, 141 * GB),
    "b200": Device(2250e12, 75e12, 180 * GB),
    "a100": Device(312e12, 19.5e12, 80 * GB),
    "l40s": Device(362e12, 91.6e12, 48 * GB),
    "rtx4090": Device(165e12, 82.6e12, 24 * GB),
}


def this_cpu() -> Device:
    """The processor that this runs on, measured with as many threads as torch has."""

    def rate(rounded: bool) -> float:
        a = torch.ones(1024, 1024)
        best = math.inf
        with bfloat16(rounded, torch.device("cpu")):
            for _ in range(5):
                started = time.perf_counter()
                _ = a @ a
                best = min(best, time.perf_counter() - started)
        return 2 * 1024**3 / best

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Half of the best product's rate is for the rest of a step.
    return Device(rate(True), rate(False), memory, gpu=False, share=0.5)


@dataclass(frozen=True)
class Step:
    """What one step takes: weights of the model, bytes of its buffers, operations, and bytes at the peak of memory.

    `gradients` and `activations` are those of the moment at which most memory is used.
    """

    parameters: int
    buffers: int
    flops: int
    gradients: int
    activations: int


@dataclass(frozen=True)
class Plan:
    """What the RPG of one experiment takes: operations of a step, memory of one process in bytes, disk, hours."""

    experiment: str
    processes: int
    checkpoint: int
    length: int
    width: int
    parameters: int
    flops: int
    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    tokens: float
    disk: float
    hours: float

    @property
    def memory(self) -> float:
        """All parts of the memory."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations + self.tokens


def plan(params: Params, name: str, device: Device, processes: int = 1) -> Plan:
    """The plan of one experiment, in so many processes, or in as many as a batch has checkpoints."""
    experiment = params.experiment(name)
    task = load_task(experiment.task, params.data_root)
    layout = layout_of(params, experiment, task)
    return plan_of(name, experiment, layout, checkpoints(experiment, task), device, processes)


def plan_of(
    name: str, experiment: Experiment, layout: Layout, checkpoints: tuple[int, int], device: Device, processes: int = 1
) -> Plan:
    """As `plan`, for a zoo of that `layout` with so many checkpoints to learn from, and so many held out."""
    train, (learned, held_out) = experiment.train, checkpoints
    batch = min(train.batch, learned)
    # As `rpg train`, no more than there are checkpoints; of the process that gets most of them.
    processes = min(processes, batch)
    own = math.ceil(batch / processes)
    picks = min(train.diffusion_batch, batch * layout.length) * train.draws
    times = min(train.times or picks, picks)
    # As `drawn_tokens` has it; the picks that a process has of all, each has a time of its own.
    shape = (times, picks // times) if own == batch else (math.ceil(picks // times * times * own / batch), 1)
    autocast = train.precision == "bfloat16" and (device.gpu or has_bfloat16(torch.device("cpu")))
    step = measure(experiment, layout, own, shape, autocast)
    split = processes if train.sharded else 1
    checkpoint = sum(math.prod(tensor.shape) for tensor in layout.tensors)
    weights, moments = FLOAT32 * step.parameters, MOMENTS[train.optimizer] * step.parameters
    tokens = FLOAT32 * layout.length * layout.width
    picked = FLOAT32 * math.prod(shape) * layout.width
    average = weights if train.ema else 0
    codes_asked = (experiment.sample.seen or 0) + len(experiment.task.held_out_codes()) or 1
    sampled = (experiment.sample.count + experiment.sample.between) * codes_asked
    state = 2 * weights + average + moments
    return Plan(
        experiment=name,
        processes=processes,
        checkpoint=checkpoint,
        length=layout.length,
        width=layout.width,
        parameters=step.parameters,
        flops=step.flops * processes,
        weights=weights / split + step.buffers,
        gradients=step.gradients / split,
        optimizer=moments / split,
        average=average / split,
        activations=step.activations - picked,
        tokens=picked,
        disk=FLOAT32 * checkpoint * (learned + held_out + sampled) + learned * tokens + state,
        hours=step.flops * train.steps / (getattr(device, train.precision) * device.share) / 3600,
    )


def checkpoints(experiment: Experiment, task: Task) -> tuple[int, int]:
    """How many checkpoints RPG will learn from, and how many are held out."""
    counts = {True: 0, False: 0}
    for run in experiment.runs().values():
        counts[run.held_out] += task.saves(experiment.zoo, run)
    return counts[False], counts[True]


def layout_of(params: Params, experiment: Experiment, task: Task) -> Layout:
    """The token map of an experiment's checkpoints; UserError if the network can't be had."""
    base: BaseConfig | None = experiment.base
    if maker := experiment.task.borrowed_base():
        base = params.experiment(maker).base
    with warnings.catch_warnings(action="ignore"):
        skeleton = task.skeleton(base)
    return Layout.of(skeleton, experiment.tokens.width, bool(experiment.tokens.canonical))


@contextmanager
def _garbage_collected() -> Iterator[None]:
    """What is no longer used is freed soon: tensors without memory are left in cycles, which real ones are not."""
    before = gc.get_threshold()
    gc.collect()
    # What is there stays, so that each collection looks at little.
    gc.freeze()
    gc.set_threshold(500, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def measure(experiment: Experiment, layout: Layout, batch: int, picks: tuple[int, int], autocast: bool) -> Step:
    """One step of RPG's training on `batch` checkpoints, without memory.

    `picks`: how many diffusion times there are in the loss, and how many tokens of each.
    """
    length, width = layout.length, layout.width
    sizes = {"permutation_state": len(experiment.zoo.seeds), "task_code": task_codes.CLASSES}
    names = [condition_name(condition) for condition in experiment.model.conditions]
    sizes |= {name: 1 for name in names if name not in sizes}
    tracker, flops = MemTracker(), FlopCounterMode(display=False)
    # On a CPU torch has autocast, too; it stands for a GPU's.
    casting = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings(action="ignore"):
        known = TokenPositions(torch.zeros(length, 2, dtype=torch.int64), torch.zeros(length, dtype=torch.bool))
        try:
            model = RPG(experiment.model, known, width=width, sizes=sizes, target=experiment.diffusion.target)
        except ValueError as error:
            raise UserError(f"params.yaml: model: {error}") from error
        if experiment.train.checkpointing:
            model.recompute()
        tracker.track_external(model)
        with tracker, flops, _garbage_collected():
            values = {name: torch.zeros(batch, sizes[name]) for name in names}
            tokens, noise = torch.zeros(*picks, width), torch.zeros(*picks, width)
            picked, t = (torch.zeros(shape, dtype=torch.int64) for shape in (picks, (picks[0], 1)))
            with casting:
                total, count = model(values, tokens, picked, t, noise)
            (total / count).backward()
        buffers = sum(buffer.nbytes for buffer in model.buffers())
        parameters = sum(parameter.numel() for parameter in model.parameters())
    ((_, peak),) = tracker.get_tracker_snapshot("peak").items()
    bytes_of = {str(kind).rpartition(".")[2]: count for kind, count in peak.items()}
    gradients = bytes_of["GRAD"]
    activations = bytes_of["Total"] - gradients - FLOAT32 * parameters - buffers
    return Step(parameters, buffers, flops.get_total_flops(), gradients, activations)


def describe(params: Params, names: list[str], device: str, processes: int = 1) -> str:
    """The plans of these experiments as a table, and what each of them needs that is not there."""
    if device != "cpu" and device not in GPUS:
        raise UserError(f"--device {device}: unknown; known: {', '.join([*GPUS, 'cpu'])}")
    on = this_cpu() if device == "cpu" else GPUS[device]
    rows, lines = [], []
    for name in names:
        try:
            rows.append(_row(plan(params, name, on, processes)))
        except UserError as error:
            if len(names) == 1:
                raise
            lines.append(f"{name}: {error}")
        lines += [f"{name}: not there: {line}" for line in missing(params.experiment(name), params.data_root)]
    if len(rows) == 1:
        table = tabulate(list(rows[0].items()), ["", "plan"], tablefmt="pipe", colalign=("left", "right"))
    else:
        table = tabulate(rows, "keys", tablefmt="pipe", colalign=("left", *["right"] * (len(rows[0]) - 1)))
    heads = [
        f"RPG's training on {device}, {on.memory / GB:.0f} GB for each process: memory of one of them at its peak,"
        f" hours at {on.share:.0%} of the device's rate of matrix products."
    ]
    return "\n".join([*heads, "", table, *([""] if lines else []), *lines])


def _row(of: Plan) -> dict[str, str]:
    return {
        "experiment": of.experiment,
        "weights of a checkpoint": f"{of.checkpoint:,}",
        "tokens L × D": f"{of.length} × {of.width}",
        "RPG parameters": f"{of.parameters:,}",
        "processes": str(of.processes),
        "TFLOP per step": f"{of.flops / 1e12:.3g}",
        **{f"{part} GB": f"{getattr(of, part) / GB:.3g}" for part in PARTS},
        "memory GB": f"{of.memory / GB:.3g}",
        "disk GB": f"{of.disk / GB:.3g}",
        "hours": f"{of.hours:.2g}",
    }


PARTS = ("weights", "gradients", "optimizer", "average", "activations", "tokens")
