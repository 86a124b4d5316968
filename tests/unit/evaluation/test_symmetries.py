"""Copies of a checkpoint that only a symmetry hides must be called replicas, for every shipped architecture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import ROOT, adapters_task, openmmlab_task
from torch import Tensor, nn

import rpg.tasks.classification.networks  # noqa: F401
from rpg.config.loading import load_params
from rpg.evaluation.alignment import find_groups, permute
from rpg.evaluation.geometry import Space, ZooPoints
from rpg.evaluation.novelty import verdict
from rpg.evaluation.recording import Forward, tensors_in
from rpg.evaluation.scale_walk import find_scaling
from rpg.evaluation.scaling import Scaling
from rpg.evaluation.symmetries import ADAPTER, NO_EXAMPLE, find_space, list_symmetries
from rpg.evaluation.verification import as_arrays, vary
from rpg.tasks.base import Task
from rpg.tokenizer.canonical import pairs
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import Stats, tokenize

PARAMS = load_params(ROOT / "params.yaml")
# Small networks of the paper's architectures: their arguments, the images' size, and the numbers of groups of permuted
# and of rescaled units. GELU is not homogeneous, so a network without norms and ReLU has no scale groups.
NETWORKS: dict[str, tuple[dict, int, int, int]] = {
    "resnet18": ({"layers": [1, 1, 1, 1], "channels": [8, 8, 12, 16]}, 32, 9, 22),
    "resnet50": ({"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10]}, 32, 13, 30),
    "resnet50_gn": ({"layers": [1, 1, 1, 1], "channels": [32, 32, 32, 32]}, 32, 173, 30),
    "vit_base_patch16_224": ({"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}, 32, 5, 10),
    "convnext_atto": ({"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}, 32, 8, 21),
    "mobilenetv3_small_050": ({}, 32, 26, 52),
    "cnn_small": ({}, 28, 4, 0),
    "cnn_medium": ({}, 32, 4, 0),
}
DIGITS = {"digits-resnet": (11, 26), "digits-vit": (5, 10), "digits-convnext": (8, 21), "digits-tasks": (7, 16)}
SCENES = {"segmentation": (18, 37), "detection": (20, 34)}

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """A zoo of random networks of one architecture: two runs with two nearly equal checkpoints each."""

    network: nn.Module
    inputs: Tensor
    forward: Forward

    def weights(self, seed: int, noise: float = 0.0) -> StateDict:
        """Random weights, statistics of BatchNorm included; `noise` is the relative difference of another save."""
        torch.manual_seed(seed)
        tensors = {
            name: tensor + torch.rand(tensor.shape) * tensor if tensor.is_floating_point() else tensor
            for name, tensor in vary(self.network).items()
        }
        order = {name: torch.randperm(tensor.numel()) for name, tensor in tensors.items()}
        drawn = {name: tensor.flatten()[order[name]].reshape(tensor.shape) for name, tensor in tensors.items()}
        return {
            name: tensor * (1 + noise * torch.rand(tensor.shape)) if tensor.is_floating_point() else tensor
            for name, tensor in drawn.items()
        }

    @torch.inference_mode()
    def outputs(self, weights: StateDict) -> list[Tensor]:
        self.network.load_state_dict(weights)
        return [output.clone() for output in tensors_in(self.forward(self.network, self.inputs))]

    def check(self, permutations: int, scales: int) -> None:
        """Plant copies of a checkpoint, and a network of another run."""
        checkpoints = [self.weights(seed, noise) for seed in (0, 1) for noise in (0.0, 0.001)]
        layout = Layout.of(checkpoints[0], 256)
        stats = Stats.of(layout, checkpoints)
        groups = find_groups(self.network, self.inputs, self.forward)
        scaling = find_scaling(self.network, self.inputs, self.forward)
        assert (len(groups), len(scaling.groups)) == (permutations, scales)
        space = Space(layout, groups, scaling, stats)

        def point(weights: StateDict) -> np.ndarray:
            return space.point(tokenize(weights, layout, stats))

        points_NP = np.stack([point(weights) for weights in checkpoints])
        zoo = ZooPoints(space, points_NP, np.array([0, 0, 1, 1]), np.array([""] * 4))
        originals = [zoo.measure(point_P, own_index=index) for index, point_P in enumerate(points_NP)]
        expected, draw = self.outputs(checkpoints[0]), np.random.default_rng(0)
        permuted = permute(as_arrays(checkpoints[0]), groups, [draw.permutation(group.units) for group in groups])
        copies = {
            "permuted": permuted,
            "rescaled": rescaled(as_arrays(checkpoints[0]), scaling, draw),
            "both": rescaled(permuted, scaling, draw),
        }
        for name, arrays in copies.items():
            copy = {key: torch.from_numpy(array) for key, array in arrays.items()}
            for before, after in zip(expected, self.outputs(copy), strict=True):
                torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
            found = zoo.measure(point(copy))
            # A copy is far away as long as its weights are compared as they are.
            apart = np.sqrt(np.mean((point(copy) - points_NP[0]) ** 2))
            assert apart > 0.1 or not {"permuted": permutations, "rescaled": scales}.get(name)
            assert found["aligned"] < 0.002, name
            assert judged([found], originals) == "replica", name
        stranger = zoo.measure(point(self.weights(2)))
        assert stranger["aligned"] > 0.8
        assert judged([stranger], originals) == "novel"


def judged(samples: list[dict], originals: list[dict]) -> str:
    """The verdict on equally accurate networks."""
    rows = (pd.DataFrame(rows).assign(test=99.0, relative=1.0) for rows in (samples, originals))
    # Noise keeps nothing of the accuracy.
    return verdict(*rows, lambda distance: 0.0)


def rescaled(arrays: dict[str, np.ndarray], scaling: Scaling, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """A network with the same function: random factors, statistics of BatchNorm and biases of keys."""
    tensors = {name: array.copy() for name, array in arrays.items()}
    scaling.fold(tensors)
    scaling.rescale(tensors, [np.exp(draw.uniform(-0.7, 0.7, group.units)) for group in scaling.groups])
    for norm in scaling.norms:
        mean, variance = draw.normal(size=tensors[norm.mean].shape), draw.uniform(0.5, 2, tensors[norm.mean].shape)
        tensors[norm.bias] += (tensors[norm.weight] * mean).astype(np.float32)
        tensors[norm.weight] *= np.sqrt(variance + norm.eps).astype(np.float32)
        tensors[norm.mean][:], tensors[norm.variance][:] = mean, variance
    for key in scaling.keys:
        tensors[key.name][key.start : key.stop] = draw.normal(size=key.stop - key.start)
    return tensors


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_of_the_papers_networks_are_replicas(name: str) -> None:
    arguments, size, permutations, scales = NETWORKS[name]
    network = timm.create_model(name, num_classes=4, **arguments).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    Architecture(network, images, lambda network, images: network(images)).check(permutations, scales)


@pytest.mark.parametrize("name", DIGITS)
def test_copies_of_the_networks_of_digits_are_replicas(name: str) -> None:
    params = PARAMS.experiment(name).task
    network = timm.create_model(params.network.name, **params.network.arguments).eval()
    images = torch.randn(2, 1, params.resolution, params.resolution, generator=torch.Generator().manual_seed(0))
    Architecture(network, images, lambda network, images: network(images)).check(*DIGITS[name])


@pytest.mark.parametrize("kind", SCENES)
def test_copies_of_the_networks_of_scenes_are_replicas(kind: str, scenes: Path) -> None:
    task = openmmlab_task(kind)
    Architecture(task.network, task.example, task.forward).check(*SCENES[kind])


def test_the_rescaled_copy_of_the_issue() -> None:
    """Convolutions before a BatchNorm × 1.3, and their statistics alike, without any code under test."""
    params = PARAMS.experiment("digits-resnet").task
    network = timm.create_model(params.network.name, **params.network.arguments).eval()
    images = torch.randn(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    architecture = Architecture(network, images, lambda network, images: network(images))
    weights = architecture.weights(0)
    norms = [name.removesuffix(".running_var") for name in weights if name.endswith(".running_var")]
    convolutions = [name for name, tensor in weights.items() if tensor.ndim == 4]
    assert len(norms) == len(convolutions) == 15
    copy = {name: 1.3 * tensor if name in convolutions else tensor for name, tensor in weights.items()}
    for norm in norms:
        copy[f"{norm}.running_mean"] = 1.3 * weights[f"{norm}.running_mean"]
        copy[f"{norm}.running_var"] = 1.69 * weights[f"{norm}.running_var"]
    (before,), (after,) = architecture.outputs(weights), architecture.outputs(copy)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))
    scaling = find_scaling(network, images)
    one, other = as_arrays(weights), as_arrays(copy)
    for tensors in (one, other):
        scaling.canonical(tensors)
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-4, atol=1e-4 * np.abs(array).max())


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("canonical", [True, False])
def test_copies_of_an_adapter_are_replicas(kind: str, canonical: bool, adapters: Path, monkeypatch) -> None:
    """B · M and M⁻¹ · A for a random matrix M, with tokens in canonical form and as they are."""
    monkeypatch.chdir(adapters)
    task = adapters_task(adapter={"kind": kind, "rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]})

    def weights(seed: int, noise: float = 0.0) -> StateDict:
        draw = torch.Generator().manual_seed(seed)
        state_dict = task.skeleton(None)
        drawn = {name: torch.randn(tensor.shape, generator=draw) / 4 for name, tensor in state_dict.items()}
        return {name: tensor * (1 + noise * torch.rand(tensor.shape)) for name, tensor in drawn.items()}

    checkpoints = [weights(seed, noise) for seed in (0, 1) for noise in (0.0, 0.001)]
    layout = Layout.of(checkpoints[0], 64, canonical)
    stats = Stats.of(layout, checkpoints)
    space = find_space(task, layout, stats)
    assert list_symmetries(space, task).tree() == {"permutations": 0, "scales": 0, "low_rank": 2, "reason": ADAPTER}
    points_NP = np.stack([space.point(tokenize(one, layout, stats)) for one in checkpoints])
    zoo = ZooPoints(space, points_NP, np.array([0, 0, 1, 1]), np.array([""] * 4))
    copy, draw = dict(checkpoints[0]), torch.Generator().manual_seed(3)
    for first, second in pairs(copy):
        matrix = torch.randn(2, 2, generator=draw)
        copy[first], copy[second] = torch.linalg.inv(matrix) @ copy[first], copy[second] @ matrix
    originals = [zoo.measure(point_P, own_index=index) for index, point_P in enumerate(points_NP)]
    copy_P = space.point(tokenize(copy, layout, stats))
    assert np.sqrt(np.mean((copy_P - points_NP[0]) ** 2)) > 0.5
    found = zoo.measure(copy_P)
    assert found["distance"] < 1e-4
    assert judged([found], originals) == "replica"
    stranger = zoo.measure(space.point(tokenize(weights(2), layout, stats)))
    assert stranger["aligned"] > 0.8
    assert judged([stranger], originals) == "novel"


def test_a_copied_adapter_answers_alike(adapters: Path, monkeypatch) -> None:
    monkeypatch.chdir(adapters)
    task = adapters_task()
    tokens = torch.tensor([[1, 2, 3, 4]])

    def logits(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        from rpg.tasks.adapters import adapter_state, put_adapter

        generator = torch.Generator().manual_seed(0)
        state_dict = {
            name: torch.randn(tensor.shape, generator=generator) / 4
            for name, tensor in adapter_state(task.network).items()
        }
        for first, second in pairs(state_dict):
            state_dict[first], state_dict[second] = change(state_dict[first], state_dict[second])
        put_adapter(task.network, state_dict)
        with torch.inference_mode():
            return task.network(input_ids=tokens).logits

    matrix = torch.tensor([[2.0, 1.0], [0.5, -1.0]])
    before = logits(lambda a, b: (a, b))
    torch.testing.assert_close(logits(lambda a, b: (matrix.inverse() @ a, b @ matrix)), before, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(logits(lambda a, b: (a, -b)), before, rtol=1e-3, atol=1e-4)


def test_a_task_without_example_inputs_says_so() -> None:
    class Silent(Task):
        network = None

    Silent.__abstractmethods__ = frozenset()
    task = Silent()
    layout = Layout.of({"weight": torch.ones(2, 2)}, 4)
    space = find_space(task, layout, Stats.of(layout, [{"weight": torch.rand(2, 2)}]))
    assert list_symmetries(space, task).tree() == {"permutations": 0, "scales": 0, "low_rank": 0, "reason": NO_EXAMPLE}
