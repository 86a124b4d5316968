"""Record the functions that a network calls in one forward pass.

A record is the graph of the pass: functions, and the tensors that go from one function to the next. The network runs on
real inputs, so control flow and shapes are no obstacle, and the network may return any nest of tensors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Run a network on inputs and return a nest of tensors.
Forward = Callable[[nn.Module, Tensor], Any]


@dataclass(frozen=True)
class Call:
    """One function call; `function` is a name without underscores ("conv2d", "add", "getitem").

    `module` is the path of an attention module, which counts as one function. It is empty otherwise.
    """

    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    module: str = ""

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """Return the argument at position `index`, or the one called `name`."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [*tensors_in(self.args), *tensors_in(self.kwargs)]

    @property
    def outputs(self) -> list[Tensor]:
        """All tensors in the result; the changed tensor if the function assigns to a part of a tensor."""
        return [self.args[0]] if self.function == "setitem" else list(tensors_in(self.output))


@dataclass(frozen=True)
class Record:
    """The calls of a forward pass in order, and its result. All tensors stay alive, so that their ids stay unique."""

    calls: Sequence[Call]
    output: Any


def tensors_in(nest: Any) -> Iterator[Tensor]:
    """Yield all tensors in a nest of lists, tuples and mappings."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping):
        for value in nest.values():
            yield from tensors_in(value)
    elif isinstance(nest, (list, tuple)):
        for value in nest:
            yield from tensors_in(value)


def call_network(network: nn.Module, inputs: Tensor) -> Any:
    """Return the network's result, for networks that take one tensor."""
    return network(inputs)


def parameter_names(network: nn.Module) -> dict[int, str]:
    """Return the id of each parameter and buffer → its name."""
    return {
        id(tensor): name
        for tensors in (network.named_parameters, network.named_buffers)
        for name, tensor in tensors(remove_duplicate=False)
    }


class _Recorder(TorchFunctionMode):
    """Keep every call of a torch function that returns or changes tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        # The number of attention modules that the pass is inside of.
        self.inside = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if not self.inside:
            name = getattr(function, "__name__", str(function)).strip("_")
            call = Call(name, tuple(args), kwargs or {}, output)
            if call.outputs:
                self.calls.append(call)
        return output

    def enter(self, *_: Any) -> None:
        self.inside += 1

    def leave(self, module: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.inside -= 1
            self.calls.append(Call("attention", args, kwargs, output, module))

        return hook


def is_attention(module: nn.Module) -> bool:
    """Return whether the walks know the module as attention: timm's, plain or with relative positions (SAM)."""
    # The import takes a second, and most callers do not need it.
    from timm.layers import Attention
    from timm.models.vision_transformer_sam import Attention as RelativeAttention

    return type(module) in (Attention, RelativeAttention)


def record(network: nn.Module, inputs: Tensor, forward: Forward) -> Record:
    """Run `forward(network, inputs)` and return its calls."""
    recorder, hooks = _Recorder(), []
    for name, module in network.named_modules():
        if is_attention(module):
            hooks.append(module.register_forward_pre_hook(recorder.enter))
            hooks.append(module.register_forward_hook(recorder.leave(name), with_kwargs=True))
    try:
        with torch.no_grad(), recorder:
            output = forward(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Record(recorder.calls, output)
