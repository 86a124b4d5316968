import torch
from torch import nn

from rpg.evaluation.recording import parameter_names, record, tensors_in


class Block(nn.Module):
    """Arithmetic, a branch that depends on the input, an assignment, and a nest of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        hidden = torch.relu(self.linear(x)) * self.scale
        if hidden.sum() > -1:
            hidden[0] = x[0]
        return {"outputs": [hidden + x]}


def test_calls_are_those_of_the_pass() -> None:
    network, x = Block().eval(), torch.randn(2, 3)
    found = record(network, x, lambda network, x: network(x))
    assert [call.function for call in found.calls] == [
        "linear",
        "relu",
        "mul",
        "sum",
        "gt",
        "getitem",
        "setitem",
        "add",
    ]
    names = parameter_names(network)
    linear, _, product = found.calls[:3]
    assert [names.get(id(tensor)) for tensor in linear.inputs] == [None, "linear.weight", "linear.bias"]
    assert names[id(product.args[1])] == "scale"
    assert linear.argument(2, "bias") is network.linear.bias
    # An assignment changes its first argument.
    assignment = found.calls[-2]
    assert assignment.outputs[0] is product.output
    (output,) = tensors_in(found.output)
    assert output is found.calls[-1].output


def test_attention_is_one_call() -> None:
    from timm.layers import Attention

    network = nn.Sequential(nn.Linear(4, 8), Attention(8, num_heads=2)).eval()
    found = record(network, torch.randn(2, 3, 4), lambda network, x: network(x))
    assert [(call.function, call.module) for call in found.calls] == [("linear", ""), ("attention", "1")]
    # Nothing is left of the recording.
    assert not network[1]._forward_hooks
    assert not network[1]._forward_pre_hooks
