"""Backbone, denoiser, target and start are independent choices: every combination of them trains and samples."""

import re
from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from rpg.config.model import KEYS_OF_KINDS, Model
from rpg.model.backbones import BACKBONES, TokenPositions
from rpg.model.denoisers import DENOISERS
from rpg.model.diffusion import Target, add_noise
from rpg.model.rpg import RPG
from rpg.utils.rng import generator

B, L, D, M, S = 2, 6, 16, 12, 3
TOKENS = TokenPositions(torch.tensor([[k % 3, k // 3] for k in range(L)]), torch.tensor([False] * 4 + [True] * 2))
MAMBA = {"width": M, "state_width": 4, "head_width": 4, "expand": 2}
RESIDUAL = {**MAMBA, "positions": ["2d", "learned"], "blocks": 1}
BLOCKS: dict[str, dict] = {
    "paper": {"kind": "paper", **MAMBA, "prototype_projection": False},
    "paper, projected": {"kind": "paper", **MAMBA, "prototype_projection": True},
    **{kind: {"kind": kind, **RESIDUAL} for kind in BACKBONES if kind != "paper"},
}
DENOISER_BLOCKS: dict[str, dict] = {
    "convolution": {"kind": "convolution", "channels": [1, 4, 6, 4, 1], "kernel": 3},
    "mlp": {"kind": "mlp", "hidden": 8, "blocks": 1},
    "none": {"kind": "none"},
}
PAIRS = [*product(BLOCKS, DENOISER_BLOCKS)]


def params(backbone: str, denoiser: str, start: str = "zero") -> Model:
    tree = {
        "conditions": [{"kind": "permutation_state", "reach": "all", "dropout": 0.0}],
        "backbone": BLOCKS[backbone],
        "denoiser": DENOISER_BLOCKS[denoiser],
        "start": start,
    }
    return Model.model_validate(tree)


def model_of(backbone: str, denoiser: str, start: str = "zero", target: Target = "x0") -> RPG:
    torch.manual_seed(0)
    return RPG(params(backbone, denoiser, start), TOKENS, width=D, sizes={"permutation_state": S}, target=target)


def loss_of(model: RPG) -> Tensor:
    """The loss of all tokens of two networks, the last weights of which are padding."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randn(B * L, D, generator=draw)
    tokens[-1, 3:] = torch.nan
    values = {"permutation_state": torch.eye(S)[:B]}
    picks, t = torch.arange(B * L), torch.randint(1000, (B * L,), generator=draw)
    total, count = model(values, tokens, picks, t, torch.randn(B * L, D, generator=draw))
    assert count == B * L * D - (D - 3)
    return total / count


def sample_of(model: RPG) -> Tensor:
    draws = [generator(0, "test", index) for index in range(B)]
    values = {"permutation_state": torch.eye(S)[:B]}
    return model.eval().sample(values, solver="ddim", steps=3, generators=draws)


def test_every_kind_of_params_has_a_network() -> None:
    assert KEYS_OF_KINDS["model", "backbone"].keys() == BACKBONES.keys()
    assert KEYS_OF_KINDS["model", "denoiser"].keys() == DENOISERS.keys() == DENOISER_BLOCKS.keys()


@pytest.mark.parametrize(("backbone", "denoiser"), PAIRS)
def test_every_pair_takes_a_step_and_samples(backbone: str, denoiser: str) -> None:
    model = model_of(backbone, denoiser)
    optimizer = torch.optim.Adam(model.parameters(), 0.001)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = []
    for _ in range(2):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.tensor(losses).isfinite().all()
    assert losses[1] < losses[0]
    # An outer layer that starts at zero hides the layers before it in the first step, not in the second. BatchNorm
    # takes the bias before it away.
    same = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert [name for name in same if not re.fullmatch(r"denoiser\.(en|de)coder\.\d\.0\.bias", name)] == []
    sample = sample_of(model)
    assert sample.shape == (B, L, D)
    assert sample.isfinite().all()
    # The state dict carries everything that a sample depends on.
    other = model_of(backbone, denoiser)
    other.load_state_dict(model.state_dict())
    assert torch.equal(sample_of(other), sample)


@pytest.mark.parametrize(("backbone", "denoiser"), [("paper", "mlp"), ("mamba2", "convolution")])
@pytest.mark.parametrize("target", get_args(Target))
def test_mixed_pairs_work_with_every_target(backbone: str, denoiser: str, target: Target) -> None:
    model = model_of(backbone, denoiser, target=target)
    assert loss_of(model).isfinite()
    assert sample_of(model).isfinite().all()


@pytest.mark.parametrize(("backbone", "denoiser"), PAIRS)
def test_start_from_the_mean_works_with_every_pair(backbone: str, denoiser: str) -> None:
    """The prediction is the denoiser's output in units of each tensor's spread about the mean."""
    model, plain = model_of(backbone, denoiser, "mean").eval(), model_of(backbone, denoiser).eval()
    assert model.mean is not None
    assert model.spread is not None
    draw = torch.Generator().manual_seed(2)
    model.mean.copy_(torch.randn(1, L, D, generator=draw))
    model.spread.copy_(torch.rand(L, 1, generator=draw) + 0.5)
    # The start draws no random numbers.
    assert set(model.state_dict()) - set(plain.state_dict()) == {"mean", "spread"}
    x, t = torch.randn(B, L, D, generator=draw), torch.tensor([3, 700])
    with torch.no_grad():
        values = {"permutation_state": torch.eye(S)[:B]}
        prototypes = model.recurrent(values)
        expected = model.mean + model.spread * plain.denoise(x, t, prototypes)
        torch.testing.assert_close(model.denoise(x, t, prototypes, model.starts(values)), expected)
    assert loss_of(model).isfinite()
    assert sample_of(model).isfinite().all()


def test_each_state_has_a_start_of_its_own() -> None:
    """Networks between two states start between their means; the loss takes each token's start from its network."""
    model, plain = model_of("mamba2", "mlp", "state_mean").eval(), model_of("mamba2", "mlp").eval()
    assert model.mean is not None
    assert model.spread is not None
    draw = torch.Generator().manual_seed(2)
    model.mean.copy_(torch.randn(S, L, D, generator=draw))
    model.spread.copy_(torch.rand(L, 1, generator=draw) + 0.5)
    shares = torch.zeros(B, S)
    shares[0, 1] = 1.0
    shares[1, :2] = torch.tensor([0.25, 0.75])
    values = {"permutation_state": shares}
    starts = model.starts(values)
    assert starts is not None
    torch.testing.assert_close(starts[0], model.mean[1])
    torch.testing.assert_close(starts[1], 0.25 * model.mean[0] + 0.75 * model.mean[1])
    assert plain.starts(values) is None
    x, t = torch.randn(B, L, D, generator=draw), torch.tensor([3, 700])
    with torch.no_grad():
        prototypes = model.recurrent(values)
        denoised = model.denoise(x, t, prototypes, starts)
        torch.testing.assert_close(denoised, starts + model.spread * plain.denoise(x, t, prototypes))
        picks = torch.tensor([0, L + 2, 2 * L - 1])
        tokens, noise = torch.randn(2, 3, D, generator=draw)
        steps = torch.tensor([5, 50, 500])
        total, count = model.errors(tokens, prototypes, picks, steps, noise, starts)
        noisy = add_noise(tokens, noise, steps)
        output = plain.denoiser(noisy, steps, prototypes.flatten(0, 1)[picks])
        predicted = starts.flatten(0, 1)[picks] + model.spread[picks % L] * output
    torch.testing.assert_close(total, (predicted - tokens).square().sum())
    assert count == tokens.numel()


@pytest.mark.parametrize(("backbone", "denoiser"), PAIRS)
def test_recomputed_activations_change_no_gradient(backbone: str, denoiser: str) -> None:
    gradients = []
    for again in (False, True):
        model = model_of(backbone, denoiser)
        if again:
            model.recompute()
        loss_of(model).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_names_of_the_state_dict_are_those_of_models_that_were_trained_before() -> None:
    """In their order, which is that of the optimizer's state and of the random numbers that make the weights."""

    def parts(backbone: str, denoiser: str) -> list[str]:
        names = model_of(backbone, denoiser).state_dict()
        return [*dict.fromkeys(".".join(name.split(".")[:2]) for name in names)]

    assert parts("mamba2", "mlp") == [
        "recurrent.tokens",
        "recurrent.positions",
        "recurrent.conditions",
        "recurrent.blocks",
        "recurrent.norm",
        "denoiser.time",
        "denoiser.input",
        "denoiser.blocks",
        "denoiser.output",
        "denoiser.skip",
    ]
    paper = ["recurrent.positions", "recurrent.conditions", "recurrent.blocks"]
    convolution = ["denoiser.time", "denoiser.condition", "denoiser.encoder", "denoiser.decoder"]
    assert parts("paper", "convolution") == paper + convolution
    assert parts("paper, projected", "convolution") == [*paper, "recurrent.projection", *convolution]
    assert parts("mamba2", "none")[-1:] == ["denoiser.output"]
