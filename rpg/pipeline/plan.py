"""Estimate the cost of training RPG in advance: `rpg plan --experiment imagenet-vit_base`, or `rpg plan --all`.

The plan takes one training step with tensors that have no memory (rpg.pipeline.step_cost), so it needs neither data nor
a GPU. The plan does not count additional memory of library kernels or unused memory of an allocator.
"""

import gc
import math
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from tabulate import tabulate

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.pipeline.prerequisites import missing
from rpg.pipeline.step_cost import FLOAT32, measure
from rpg.tasks.base import Task
from rpg.tasks.config import BaseConfig
from rpg.tasks.loading import load_task, text_task
from rpg.tokenizer.layout import Layout
from rpg.utils.device import bfloat16, has_bfloat16
from rpg.utils.errors import UserError

GB = 1e9
# The share of a data sheet's operations per second that a training reaches. It fits the published training for
# ViT-Tiny: 4.1 hours for 50,000 steps on an H100 (arXiv 2501.11587).
SHARE = 0.13
# Bytes of the optimizer's state per weight. With 8 bits, each block of 256 moments has one float as a scale.
MOMENTS = {"adamw": 2 * FLOAT32, "adamw8bit": 2 * (1 + FLOAT32 / 256)}


@dataclass(frozen=True)
class Device:
    """A device: operations per second of dense matrix products, by precision, and bytes of memory.

    bfloat16 means torch's autocast, which also changes the activations kept for the backward pass.
    """

    bfloat16: float
    float32: float
    memory: float
    gpu: bool = True
    share: float = SHARE


# From data sheets; float32 is without TF32.
GPUS = {
    "h100": Device(989e12, 67e12, 80 * GB),
    "h200": Device(989e12, 67e12, 141 * GB),
    "b200": Device(2250e12, 75e12, 180 * GB),
    "a100": Device(312e12, 19.5e12, 80 * GB),
    "l40s": Device(362e12, 91.6e12, 48 * GB),
    "rtx4090": Device(165e12, 82.6e12, 24 * GB),
}


def this_cpu() -> Device:
    """Measure this machine's CPU with torch's number of threads."""

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
    # A whole step reaches about half of the best product's rate.
    return Device(rate(True), rate(False), memory, gpu=False, share=0.5)


@dataclass(frozen=True)
class Plan:
    """The cost of one experiment's RPG: operations per step, bytes of memory of one process, bytes on disk, hours."""

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
        """The sum of all parts of the memory, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations + self.tokens


def plan(params: Params, name: str, device: Device, processes: int = 1) -> Plan:
    """Return the plan of one experiment in `processes` processes, at most one per checkpoint of a batch."""
    experiment = params.experiment(name)
    task = load_task(experiment.task, params.data_root)
    layout = layout_of(params, experiment, task)
    return plan_of(name, experiment, layout, checkpoints(experiment, task), device, processes)


def plan_of(
    name: str, experiment: Experiment, layout: Layout, checkpoints: tuple[int, int], device: Device, processes: int = 1
) -> Plan:
    """Return the plan for a zoo of this `layout`; `checkpoints` counts (learned from, held out)."""
    train, (learned, held_out) = experiment.train, checkpoints
    batch = min(train.batch, learned)
    # As in `rpg train`, at most one process per checkpoint. The plan is for the process with the most checkpoints.
    processes = min(processes, batch)
    own = math.ceil(batch / processes)
    picks = min(train.diffusion_batch, batch * layout.length) * train.draws
    times = min(train.times or picks, picks)
    # The shape of `drawn_tokens`. With several processes each pick of a process has its own time.
    shape = (times, picks // times) if own == batch else (math.ceil(picks // times * times * own / batch), 1)
    autocast = train.precision == "bfloat16" and (device.gpu or has_bfloat16(torch.device("cpu")))
    step = measure(experiment, layout, own, shape, autocast)
    split = processes if train.sharded else 1
    checkpoint = sum(math.prod(tensor.shape) for tensor in layout.tensors)
    weights, moments = FLOAT32 * step.parameters, MOMENTS[train.optimizer] * step.parameters
    tokens = FLOAT32 * layout.length * layout.width
    picked = FLOAT32 * math.prod(shape) * layout.width
    average = weights if train.ema else 0
    codes = (experiment.sample.seen or 0) + len(experiment.task.held_out_codes()) or 1
    sampled = (experiment.sample.count + experiment.sample.between) * codes
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


def text_tuning(params: Params, name: str, device: Device) -> str | None:
    """Return a line on what RPG's tuning by a language model costs; None for other experiments.

    The model's weights get no gradient: each goes through two operations per token forward, and two backward.
    """
    experiment = params.experiment(name)
    if not (experiment.model.text and experiment.tune):
        return None
    cost = text_task(load_task(experiment.task, params.data_root)).loss_cost(_base(params, experiment), experiment.zoo)
    hours = []
    for block in (experiment.tune, experiment.hypernetwork):
        if block:
            tokens = block.steps * block.networks * block.images * cost.tokens
            rate = getattr(device, block.precision) * device.share
            hours.append(f"{4 * cost.weights * tokens / rate / 3600:.2g}")
    return (
        f"{name}: RPG learns in `rpg tune`, which the table leaves out: {experiment.tune.steps:,} steps of"
        f" {experiment.tune.networks * experiment.tune.images} questions, each of at most {cost.tokens} tokens, through"
        f" the {cost.weights:,} weights of the language model, {' h, and the hypernetwork '.join(hours)} h,"
        f" {2 * cost.weights / GB:.3g} GB for the model in bfloat16"
    )


def checkpoints(experiment: Experiment, task: Task) -> tuple[int, int]:
    """Return the number of checkpoints that RPG learns from, and the number of held-out ones."""
    counts = {True: 0, False: 0}
    for run in experiment.runs().values():
        counts[run.held_out] += task.saves(experiment.zoo, run)
    return counts[False], counts[True]


def layout_of(params: Params, experiment: Experiment, task: Task) -> Layout:
    """Return the token layout of an experiment's checkpoints; UserError if the network can't be built."""
    with warnings.catch_warnings(action="ignore"):
        skeleton = task.skeleton(_base(params, experiment))
    tokens = experiment.tokens
    return Layout.of(skeleton, tokens.width, bool(tokens.canonical), by_channel=bool(tokens.by_channel))


def _base(params: Params, experiment: Experiment) -> BaseConfig | None:
    """Return the block of the base network that the zoo starts from, of this or of another experiment."""
    maker = experiment.task.borrowed_base()
    return params.experiment(maker).base if maker else experiment.base


def describe(params: Params, names: list[str], device: str, processes: int = 1) -> str:
    """Return the experiments' plans as a table, and one line per missing prerequisite."""
    if device != "cpu" and device not in GPUS:
        raise UserError(f"--device {device}: unknown; known: {', '.join([*GPUS, 'cpu'])}")
    on = this_cpu() if device == "cpu" else GPUS[device]
    rows, lines = [], []
    for name, (costs, absent) in zip(names, _plans(params, names, on, processes), strict=True):
        if isinstance(costs, Plan):
            rows.append(_row(costs))
        elif len(names) == 1:
            raise costs
        else:
            lines.append(f"{name}: {costs}")
        if not isinstance(costs, UserError) and (line := text_tuning(params, name, on)):
            lines.append(line)
        lines += [f"{name}: not there: {line}" for line in absent]
    if len(rows) == 1:
        table = tabulate(list(rows[0].items()), ["", "plan"], tablefmt="pipe", colalign=("left", "right"))
    else:
        table = tabulate(rows, "keys", tablefmt="pipe", colalign=("left", *["right"] * (len(rows[0]) - 1)))
    heads = [
        f"RPG's training on {device}, {on.memory / GB:.0f} GB for each process: memory of one of them at its peak,"
        f" hours at {on.share:.0%} of the device's rate of matrix products."
    ]
    return "\n".join([*heads, "", table, *([""] if lines else []), *lines])


# An experiment's plan, or the reason why there is none, and its missing prerequisites.
Planned = tuple[Plan | UserError, list[str]]


def _plans(params: Params, names: list[str], on: Device, processes: int) -> list[Planned]:
    """Plan all experiments; one process per core makes the plans."""
    if len(names) == 1:
        return [_planned(params, on, processes, names[0])]
    # Each kind of task imports its own libraries, so a process plans all experiments of a kind in a row.
    kinds = list(dict.fromkeys(params.experiment(name).task.kind for name in names))
    order = sorted(names, key=lambda name: kinds.index(params.experiment(name).task.kind))
    workers = min(len(os.sched_getaffinity(0)), len(names))
    fork = multiprocessing.get_context("fork")
    # Forks share the arguments, whose classes are made at run time and cannot be pickled.
    shared = (params, on, processes, order, fork.Array("i", [0, len(order)]))
    try:
        with ProcessPoolExecutor(workers, fork, _ARGUMENTS.extend, (shared,)) as pool:
            made = dict(chain.from_iterable(pool.map(_plans_in_fork, range(workers))))
    except RuntimeError as error:
        # torch refuses gradients in a fork of a process that has computed some, which the command line never has.
        if "fork-based multiprocessing" not in str(error):
            raise
        return [_planned(params, on, processes, name) for name in names]
    return [made[name] for name in names]


# The arguments of all plans of a forked process.
_ARGUMENTS: list[Any] = []


def _plans_in_fork(worker: int) -> list[tuple[str, Planned]]:
    """Plan experiments until none is left: from the start of the order, or, in every second worker, from its end.

    So two workers share at most one kind.
    """
    # A fork must not use the threads of its parent.
    torch.set_num_threads(1)
    # A plan makes many small objects and no cycles that take much memory.
    gc.disable()
    params, on, processes, order, left = _ARGUMENTS
    made = []
    while (index := _taken(left, worker % 2 == 1)) is not None:
        made.append((order[index], _planned(params, on, processes, order[index])))
    return made


def _taken(left: Any, last: bool) -> int | None:
    """Take the first or last index of the range `left`, which all workers share; None if the range is empty."""
    with left.get_lock():
        start, stop = left
        if start == stop:
            return None
        left[:] = [start, stop - 1] if last else [start + 1, stop]
        return stop - 1 if last else start


def _planned(params: Params, on: Device, processes: int, name: str) -> Planned:
    absent = missing(params.experiment(name), params.data_root)
    try:
        return plan(params, name, on, processes), absent
    except UserError as error:
        return error, absent


def _row(costs: Plan) -> dict[str, str]:
    return {
        "experiment": costs.experiment,
        "weights of a checkpoint": f"{costs.checkpoint:,}",
        "tokens L × D": f"{costs.length} × {costs.width}",
        "RPG parameters": f"{costs.parameters:,}",
        "processes": str(costs.processes),
        "TFLOP per step": f"{costs.flops / 1e12:.3g}",
        **{f"{part} GB": f"{getattr(costs, part) / GB:.3g}" for part in PARTS},
        "memory GB": f"{costs.memory / GB:.3g}",
        "disk GB": f"{costs.disk / GB:.3g}",
        "hours": f"{costs.hours:.2g}",
    }


PARTS = ("weights", "gradients", "optimizer", "average", "activations", "tokens")
