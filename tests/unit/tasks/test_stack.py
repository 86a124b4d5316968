"""Stacked networks against each network by itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import rpg.tasks.classification.networks  # noqa: F401
from rpg.tasks.stack import Joint, StateDict, _joint, logits, stack, unstack

RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 8], "stem_type": "deep", "stem_width": 4}
CONVNEXT = {"patch_size": 1, "depths": [1, 1, 1, 1], "dims": [4, 8, 8, 8], "kernel_sizes": 3}
VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
# Name → (timm's name, arguments, whether its networks lie side by side as one).
NETWORKS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "resnet": ("resnet18", RESNET, True),
    "convnext": ("convnext_atto", CONVNEXT, True),
    "vit": ("vit_tiny_patch16_224", VIT, False),
    "group_norm": ("resnet18", {**RESNET, "norm_layer": "groupnorm1"}, True),
    "squeeze": ("seresnet18", {**RESNET, "stem_type": ""}, True),
}


def made(name: str) -> nn.Module:
    import timm

    architecture, arguments, _ = NETWORKS[name]
    return timm.create_model(architecture, in_chans=1, num_classes=3, **arguments)


def weights_of(name: str, count: int) -> tuple[nn.Module, StateDict]:
    """A network, and the weights of `count` others, in float64."""
    torch.manual_seed(0)
    state_dicts = []
    for _ in range(count):
        state_dict = made(name).double().state_dict()
        # Some start at zero or one, where a wrong place would not be seen.
        state_dicts.append(
            {
                key: tensor + 0.2 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor
                for key, tensor in state_dict.items()
            }
        )
    return made(name).double(), stack(state_dicts)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_stacked_networks_answer_learn_and_count_as_each_alone(name: str, shared: bool, training: bool) -> None:
    network, weights = weights_of(name, 3)
    network.train(training)
    images = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    images = images[:1].expand(3, -1, -1, -1, -1) if shared else images
    learned = [key for key, _ in network.named_parameters()]
    alone = unstack(weights)
    for state_dict in [weights, *alone]:
        for key in learned:
            state_dict[key].requires_grad_()
    found = logits(network, weights, images[0] if shared else images)
    expected = torch.stack([functional_call(network, alone[e], (images[e],)) for e in range(3)])
    torch.testing.assert_close(found, expected)
    assert (_joint(network, 3, images) is not None) is NETWORKS[name][2]
    (found**2).sum().backward()
    (expected**2).sum().backward()
    for key in weights:
        torch.testing.assert_close(weights[key].detach(), torch.stack([one[key].detach() for one in alone]))
    for key in learned:
        gradient = torch.stack([one[key].grad for one in alone])
        torch.testing.assert_close(weights[key].grad, gradient, msg=lambda text, key=key: f"{key}: {text}")


def test_network_that_mixes_channels_is_not_taken_for_one_that_can_lie_side_by_side() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            # Of all channels, whosever they are.
            return self.fc((x - x.mean(1, keepdim=True)).mean((2, 3)))

    network = Mixing().double()
    assert not Joint(network, 2).agrees(network, torch.randn(2, 2, 1, 8, 8))
    weights = stack([Mixing().double().state_dict() for _ in range(2)])
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    expected = [functional_call(network, one, (images,)) for one in unstack(weights)]
    torch.testing.assert_close(logits(network, weights, images), torch.stack(expected))


def test_asking_draws_no_random_numbers_and_leaves_the_network_as_it_was() -> None:
    network, weights = weights_of("resnet", 2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    torch.manual_seed(3)
    logits(network.train(), weights, torch.ones(2, 1, 8, 8, dtype=torch.float64))
    assert torch.rand(()).item() == torch.rand((), generator=torch.Generator().manual_seed(3)).item()
    assert network.training
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
