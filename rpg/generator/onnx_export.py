"""Export a trained RPG as an ONNX graph, which generates networks without torch (`rpg.generator.onnx_runtime`).

The graph's inputs are `noise` [1, L, D] and the values of each condition [1, C]. Its outputs are the generated tensors
of one network. The sampler's steps are unrolled, so their number is fixed.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rpg.generator.onnx_runtime import DTYPES, MIN_NOISE
from rpg.generator.trained import TrainedRPG
from rpg.model import diffusion
from rpg.model.rpg import TOGETHER
from rpg.tokenizer.normalization import generated

NEEDED = ("onnx", "onnxscript", "onnxruntime")
# A longer sampler makes a graph of thousands of operations. A file of ONNX holds at most 2 GiB.
MAX_STEPS, MAX_BYTES = 20, 2**31 - 2**20


class Unrolled(nn.Module):
    """All of a network's generation from noise and condition values, for a solver without noise of its own."""

    def __init__(self, trained: TrainedRPG) -> None:
        super().__init__()
        self.model, self.sampler = trained.model, trained.settings.sample
        self.names = list(trained.table.values)
        self.layout, self.numbers = trained.tokenizer.layout, trained.tokenizer.stats.numbers()

    def forward(self, noise_1LD: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the generated tensors [*shape] in the layout's order."""
        named, model = dict(zip(self.names, values, strict=True)), self.model
        prototypes_1LW, start_1LD = model.recurrent(named), model.starts(named)
        tokens_1LD = diffusion.sample(
            lambda x_1LD, t: model._predict(x_1LD, t, prototypes_1LW, start_1LD),
            noise_1LD,
            target=model.target,
            solver=self.sampler.solver,
            steps=self.sampler.steps,
            noise=torch.randn_like,
        )
        return tuple(generated(tokens_1LD[0], self.layout, self.numbers).values())


def unsuited(trained: TrainedRPG) -> str | None:
    """Return the reason why a trained RPG can't be exported; None if it can."""
    layout, sample = trained.tokenizer.layout, trained.settings.sample
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        return f"{missing[0]} is not installed; install rpg-weights[onnx]"
    if trained.encoder:
        return "RPG takes images, and torch computes their features"
    if trained.takes_questions:
        return "RPG takes questions, and a language model computes their features"
    if sample.solver == "ddpm" or sample.steps > MAX_STEPS:
        return f"the sampler draws noise in each step, or has more than {MAX_STEPS} steps"
    if other := next((tensor.dtype for tensor in layout.tensors if tensor.dtype not in DTYPES), None):
        return f"NumPy has no {other}"
    if min(layout.length % TOGETHER or TOGETHER, layout.length) * layout.width < MIN_NOISE:
        return "its tokens are too few"
    if sum(tensor.nbytes for tensor in trained.model.state_dict().values()) > MAX_BYTES:
        return "its weights are too large for one file"
    return None


def write_graph(trained: TrainedRPG, path: Path) -> None:
    """Write the graph of a trained RPG, for which `unsuited` returns None."""
    values = [of[:1].clone() for of in trained.table.values.values()]
    noise_1LD = torch.zeros(1, trained.model.length, trained.model.width)
    unrolled = Unrolled(trained).cpu().eval()
    names = ["noise", *(f"condition.{name}" for name in unrolled.names)]
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings(action="ignore"):
        # The numbers of the schedule are computed here, and are constants in the graph.
        unrolled(noise_1LD, *values)
        program = torch.onnx.export(
            unrolled,
            (noise_1LD, *values),
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=[tensor.name for tensor in trained.tokenizer.layout.tokenized],
        )
    assert program
    remove_notes(program.model)
    program.save(path, external_data=False)


def remove_notes(model: Any) -> None:
    """Remove the lines and paths of this machine's source code that the exporter notes in an ONNX model."""
    graph = model.graph
    nodes = list(graph.all_nodes())
    for node in nodes:
        node.doc_string = None
    values = [value for node in nodes for value in node.outputs]
    for one in (model, graph, *nodes, *values, *graph.inputs, *graph.initializers.values()):
        one.metadata_props.clear()
