"""Measure one training step of RPG with tensors that have no memory (torch's FakeTensorMode).

`StepMeter` counts the bytes in use and the operations. It counts as torch's MemTracker and FlopCounterMode do, in a
fraction of their time. Activation checkpointing splits a Mamba2 block into many parts of the same shapes; the meter
runs one of them and adds its cost for the others.
"""

import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from rpg.config.experiment import Experiment
from rpg.model import mamba2
from rpg.model.backbones import TokenPositions
from rpg.model.conditions import condition_name
from rpg.model.rpg import RPG
from rpg.model.set_encoder import GROUPS
from rpg.tokenizer.layout import Layout
from rpg.utils import task_codes
from rpg.utils.errors import UserError

FLOAT32 = 4
# The images of an answer, or the questions, in the prompts of a step.
EXAMPLES = 10
# Reads a tensor's device; torch calls it more often than all operations together.
DEVICE = torch.ops.prim.device.default


@dataclass(frozen=True)
class Step:
    """The cost of one step: number of weights, bytes of buffers, operations, and bytes at the memory peak.

    `gradients` and `activations` are bytes at the moment of the peak.
    """

    parameters: int
    buffers: int
    flops: int
    gradients: int
    activations: int


@cache
def _consists_of_others(operation: Any) -> bool:
    """Return whether torch can split the operation into others, such as the gradient of SiLU."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        operation.name(), torch._C.DispatchKey.CompositeImplicitAutograd
    )


class StepMeter(TorchDispatchMode):
    """Count operations (`flops`), and the bytes of all living tensors: now (`bytes`), and at their `peak`.

    `peak_gradients` are the bytes of the gradients of `watch`ed weights at the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = self.peak = self.gradients = self.peak_gradients = 0
        self.paused = False
        # Address of a storage → its weak reference, and the addresses of the gradients.
        self._living: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._gradients: set[int] = set()

    def watch(self, model: nn.Module) -> None:
        """Count the tensors of `model`, which exist already, and recognize the gradients of its weights."""
        for tensor in [*model.parameters(), *model.buffers()]:
            self._count(tensor)
        self.see(self.bytes)
        for parameter in model.parameters():
            # Autograd may copy a gradient when it becomes the parameter's; then both count.
            parameter.register_hook(self._mark)
            parameter.register_post_accumulate_grad_hook(lambda parameter: self._mark(parameter.grad))

    def see(self, size: int) -> None:
        """Count a moment with `size` bytes in use."""
        if size > self.peak:
            self.peak, self.peak_gradients = size, self.gradients

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE or self.paused:
            return func(*args, **(kwargs or {}))
        if _consists_of_others(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self._count(tensor)
        self.see(self.bytes)
        if counted := flop_registry.get(func._overloadpacket):
            self.flops += counted(*args, **(kwargs or {}), out_val=result)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._living:
            return

        def freed(_: Any) -> None:
            del self._living[address]
            self.bytes -= size
            if address in self._gradients:
                self._gradients.remove(address)
                self.gradients -= size

        self._living[address] = weakref.ref(storage, freed)
        self.bytes += size

    def _mark(self, gradient: Tensor | None) -> None:
        assert gradient is not None
        storage = gradient.untyped_storage()
        if storage._cdata not in self._gradients and storage._cdata in self._living:
            self._gradients.add(storage._cdata)
            self.gradients += storage.nbytes()


@dataclass(frozen=True)
class PartCost:
    """The cost of one part of a scan: operations of the forward and the backward pass, and bytes above those before.

    The backward pass needs `before` bytes until it frees the gradient of its output, and `after` from then on.
    """

    output: tuple[torch.Size, torch.dtype]
    forward_flops: int
    backward_flops: int
    forward: int
    before: int
    after: int


def part_cost(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> PartCost:
    """Run `function`, forward and backward, with its own tensors in the shapes of `inputs`, and return the cost."""
    entry, before = 0, 0

    def enter(gradient: Tensor) -> None:
        nonlocal entry
        storage = gradient.untyped_storage()
        entry = meter.peak = meter.bytes
        weakref.finalize(storage, leave)

    def leave() -> None:
        nonlocal before
        before, meter.peak = meter.peak - entry, 0

    # The innermost hooks of saved tensors count, so a surrounding checkpoint does not see this graph.
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor), StepMeter() as meter:
        own = [torch.empty_like(tensor).requires_grad_(tensor.requires_grad) for tensor in inputs]
        start = meter.peak = meter.bytes
        output = function(*own)
        forward, forward_flops = meter.peak - start, meter.flops
        output.register_hook(enter)
        # The product makes a gradient that nothing else holds.
        kept = torch.autograd.grad(
            output * 2, [tensor for tensor in own if tensor.requires_grad], torch.empty_like(output)
        )
        after = meter.peak - entry
    del kept
    return PartCost((output.shape, output.dtype), forward_flops, meter.flops - forward_flops, forward, before, after)


class _Part(torch.autograd.Function):
    """A part of a scan that allocates its results and tells the meter the rest of its cost."""

    @staticmethod
    def forward(ctx: Any, meter: StepMeter, cost: PartCost, used: dict[int, int], *inputs: Tensor) -> Tensor:
        ctx.meter, ctx.cost, ctx.used = meter, cost, used
        ctx.save_for_backward(*inputs)
        meter.see(meter.bytes + cost.forward)
        meter.flops += cost.forward_flops
        return torch.empty(cost.output[0], dtype=cost.output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        meter, cost, storage = ctx.meter, ctx.cost, gradient.untyped_storage()
        # The parts' gradients are slices of one tensor, which the last part frees.
        ctx.used[storage._cdata] += gradient.nbytes
        freed = 0
        if ctx.used[storage._cdata] == storage.nbytes():
            del ctx.used[storage._cdata]
            freed = storage.nbytes() - gradient.nbytes
        meter.see(meter.bytes + cost.before)
        meter.see(meter.bytes + cost.after - freed)
        meter.flops += cost.backward_flops
        results = (torch.empty_like(tensor) if tensor.requires_grad else None for tensor in ctx.saved_tensors)
        return (None, None, None, *results)


@contextmanager
def parts_measured_once(meter: StepMeter) -> Iterator[None]:
    """Run one part of each shape of the recomputed scans; the others only cost as much."""
    again, costs, used = mamba2._again, dict[Any, PartCost](), defaultdict[int, int](int)

    def cheaper(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if function is not mamba2.scan:
            return again(function, *inputs)
        shapes = tuple((tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in inputs)
        if shapes not in costs:
            meter.paused = True
            costs[shapes] = part_cost(lambda *own: again(function, *own), inputs)
            meter.paused = False
        return _Part.apply(meter, costs[shapes], used, *inputs)

    mamba2._again = cheaper
    try:
        yield
    finally:
        mamba2._again = again


def measure(experiment: Experiment, layout: Layout, batch: int, picks: tuple[int, int], autocast: bool) -> Step:
    """Measure one step of RPG's training on `batch` checkpoints, with tensors that have no memory.

    `picks` is the shape of the loss: the number of diffusion times, and the number of tokens per time.
    """
    length, width = layout.length, layout.width
    sizes = {"permutation_state": len(experiment.zoo.seeds), "task_code": task_codes.CLASSES}
    names = [condition_name(condition) for condition in experiment.model.conditions]
    sizes |= {name: 1 for name in names if name not in sizes}
    meter = StepMeter()
    # torch's autocast on a CPU replaces a GPU's autocast.
    casting = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings(action="ignore"):
        known = TokenPositions(torch.zeros(length, 2, dtype=torch.int64), torch.zeros(length, dtype=torch.bool))
        try:
            model = RPG(experiment.model, known, width=width, sizes=sizes, target=experiment.diffusion.target)
        except ValueError as error:
            raise UserError(f"params.yaml: model: {error}") from error
        if experiment.train.checkpointing:
            model.recompute()
        meter.watch(model)
        with meter, parts_measured_once(meter):
            values = {
                name: torch.zeros(batch, GROUPS[condition.kind], EXAMPLES, condition.features + 1)
                if condition.kind in ("images", "text")
                else torch.zeros(batch, sizes[name])
                for name, condition in zip(names, experiment.model.conditions, strict=True)
            }
            tokens, noise = torch.zeros(*picks, width), torch.zeros(*picks, width)
            picked, t = (torch.zeros(shape, dtype=torch.int64) for shape in (picks, (picks[0], 1)))
            with casting:
                total, count = model(values, tokens, picked, t, noise)
            (total / count).backward()
        buffers = sum(buffer.nbytes for buffer in model.buffers())
        parameters = sum(parameter.numel() for parameter in model.parameters())
    activations = meter.peak - meter.peak_gradients - FLOAT32 * parameters - buffers
    return Step(parameters, buffers, meter.flops, meter.peak_gradients, activations)
