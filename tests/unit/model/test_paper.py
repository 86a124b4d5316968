"""The preset `paper-rpg` against the published equations, written out here from a published state dict."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import one_hot

from rpg.config.model import (
    ConvolutionDenoiserConfig,
    Model,
    PaperBackboneConfig,
    PermutationStateCondition,
    TaskCodeCondition,
)
from rpg.model.backbones import TokenPositions
from rpg.model.mamba2 import Mamba2
from rpg.model.published_names import from_published
from rpg.model.rpg import RPG

D, M, S, C = 16, 12, 3, 10
POSITIONS = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]])
TOKENS = TokenPositions(POSITIONS, POSITIONS[:, 1] == 1)
PARAMS = Model(
    conditions=[
        PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0),
        TaskCodeCondition(kind="task_code", hidden=None, reach="all"),
    ],
    backbone=PaperBackboneConfig(
        kind="paper", width=M, state_width=6, head_width=8, expand=2, prototype_projection=False
    ),
    denoiser=ConvolutionDenoiserConfig(kind="convolution", channels=[1, 4, 6, 8, 6, 4, 1], kernel=7),
    start="zero",
)
CONDITION_SIZES = {"permutation_state": S, "task_code": C}


def changed(**blocks: dict) -> Model:
    """`PARAMS` with other values in its blocks."""
    updates = {name: getattr(PARAMS, name).model_copy(update=keys) for name, keys in blocks.items()}
    return PARAMS.model_copy(update=updates)


def published_state_dict() -> dict[str, Tensor]:
    """Random weights under the published names, with the copies and constants that the published file carries."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.3

    state = {
        "to_condition.weight": random(M, C),
        "to_condition.bias": random(M),
        "to_permutation_state.weight": random(S, M),
        "model.pe": random(1, len(POSITIONS), M),
    }
    for block, (before, after) in enumerate([(M, M), (M, D)]):
        inner, heads = 2 * after, 2 * after // 8
        for name, shape in {
            "in_proj.weight": (2 * inner + 12 + heads, before),
            "conv1d.weight": (inner + 12, 1, 4),
            "conv1d.bias": (inner + 12,),
            "dt_bias": (heads,),
            "A_log": (heads,),
            "D": (heads,),
            "norm.weight": (inner,),
            "out_proj.weight": (after, inner),
        }.items():
            state[f"model.mamba_forward.{block}.{name}"] = random(*shape)
    net = {
        "time_embedder.freqs": 10000 ** (-torch.arange(128) / 128),
        "time_embedder.mlp.0.weight": random(D, 256),
        "time_embedder.mlp.0.bias": random(D),
        "time_embedder.mlp.2.weight": random(D, D),
        "time_embedder.mlp.2.bias": random(D),
        "condi_embedder.weight": random(D, D),
        "condi_embedder.bias": random(D),
    }
    channels = PARAMS.denoiser.channels
    for step in range(6):
        part, index = ("encoder", step) if step < 4 else ("decoder", step - 4)
        name = f"{part}_list.{index}"
        net[f"{name}.0.weight"] = random(channels[step + 1], channels[step], 7)
        net[f"{name}.0.bias"] = random(channels[step + 1])
        if step < 5:
            net[f"{name}.1.0.weight"] = 1 + random(channels[step + 1])
            net[f"{name}.1.0.bias"] = random(channels[step + 1])
            net[f"{name}.1.0.running_mean"] = random(channels[step + 1])
            net[f"{name}.1.0.running_var"] = 1 + random(channels[step + 1]).abs()
            net[f"{name}.1.0.num_batches_tracked"] = torch.tensor(5)
    state |= {f"criteria.net.{name}": tensor for name, tensor in net.items()}
    state |= {f"criteria.diffusion_trainer.model.{name}": tensor for name, tensor in net.items()}
    state["criteria.diffusion_sampler.sqrt_alphas_bar"] = random(1000)
    return state


def published_denoiser(w: dict[str, Tensor], x: Tensor, t: Tensor, prototype: Tensor) -> Tensor:
    def linear(name: str, value: Tensor) -> Tensor:
        return value @ w[f"criteria.net.{name}.weight"].T + w[f"criteria.net.{name}.bias"]

    angles = t[:, None] * w["criteria.net.time_embedder.freqs"]
    time = linear(
        "time_embedder.mlp.2",
        functional.silu(linear("time_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], -1))),
    )
    condition, time = linear("condi_embedder", prototype)[:, None], time[:, None]

    def step(name: str, value: Tensor, last: bool = False) -> Tensor:
        name = f"criteria.net.{name}"
        value = functional.conv1d((value + condition) * time, w[f"{name}.0.weight"], w[f"{name}.0.bias"], padding=3)
        if last:
            return value
        mean, var = w[f"{name}.1.0.running_mean"][:, None], w[f"{name}.1.0.running_var"][:, None]
        value = (value - mean) / (var + 1e-5).sqrt()
        value = value * w[f"{name}.1.0.weight"][:, None] + w[f"{name}.1.0.bias"][:, None]
        return torch.where(value > 0, value, value.exp() - 1)

    first = step("encoder_list.0", x[:, None])
    second = step("encoder_list.1", first)
    third = step("encoder_list.2", second)
    fourth = step("encoder_list.3", third)
    fifth = step("decoder_list.0", fourth + second)
    return step("decoder_list.1", fifth + first, last=True)[:, 0]


def published_prototypes(w: dict[str, Tensor], state: int, code: Tensor) -> Tensor:
    hidden = (
        w["model.pe"]
        + w["to_permutation_state.weight"][state]
        + w["to_condition.weight"] @ code
        + w["to_condition.bias"]
    )
    for index, (before, after) in enumerate([(M, M), (M, D)]):
        block = Mamba2(after, state_width=6, head_width=8, input_width=before)
        prefix = f"model.mamba_forward.{index}."
        block.load_state_dict({k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)})
        hidden = block(hidden)
    return hidden[0]


@pytest.fixture
def model() -> RPG:
    model = RPG(PARAMS, TOKENS, width=D, sizes=CONDITION_SIZES, target="epsilon")
    # Strict: every published weight has a place, and every place a published weight.
    model.load_state_dict(from_published(published_state_dict()), strict=True)
    return model.eval()


def test_prototypes_equal_the_published_equations(model: RPG) -> None:
    code = torch.randint(2, (C,), generator=torch.Generator().manual_seed(3)).float()
    prototypes = model.recurrent({"permutation_state": one_hot(torch.tensor([2]), S), "task_code": code[None]})[0]
    assert prototypes.shape == (len(POSITIONS), D)
    torch.testing.assert_close(prototypes, published_prototypes(published_state_dict(), 2, code), rtol=1e-5, atol=1e-6)


def test_denoiser_equals_the_published_equations(model: RPG) -> None:
    draw = torch.Generator().manual_seed(1)
    x, prototype = torch.randn(2, 5, D, generator=draw)
    t = torch.tensor([0, 1, 500, 998, 999])
    expected = published_denoiser(published_state_dict(), x, t, prototype)
    torch.testing.assert_close(model.denoiser(x, t, prototype), expected, rtol=1e-4, atol=1e-5)


def test_loss_equals_the_published_one(model: RPG) -> None:
    """ε-prediction MSE over the entries that are not NaN, of the picked tokens only."""
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randn(2, len(POSITIONS), D, generator=draw)
    tokens[:, 1, 10:] = torch.nan
    tokens[:, 4, 3:] = torch.nan
    picks, t = torch.tensor([1, 4, 6, 9]), torch.tensor([10, 400, 700, 999])
    noise, states = torch.randn(4, D, generator=draw), torch.tensor([0, 2])
    codes = torch.eye(C)[:2]
    w = published_state_dict()
    prototypes = torch.cat([published_prototypes(w, 0, codes[0]), published_prototypes(w, 2, codes[1])])[picks]
    x0 = tokens.flatten(0, 1)[picks]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[t][:, None]
    x = alpha_bar.sqrt() * x0.nan_to_num(0) + (1 - alpha_bar).sqrt() * noise
    errors = (published_denoiser(w, x, t, prototypes) - noise)[~x0.isnan()]
    assert errors.numel() == 10 + 3 + 10 + 3
    values = {"permutation_state": one_hot(states, S), "task_code": codes}
    loss = model.loss(tokens.flatten(0, 1)[picks], model.recurrent(values), picks, t, noise)
    assert loss.item() == pytest.approx(errors.square().mean().item(), rel=1e-4)


def test_unknown_published_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"get_condition\.1\.weight"):
        from_published({"get_condition.1.weight": torch.zeros(1)})


def test_projection_makes_the_recurrent_width_independent_of_the_token_s() -> None:
    params = changed(backbone={"prototype_projection": True})
    models = [RPG(params, TOKENS, width=width, sizes=CONDITION_SIZES, target="epsilon") for width in (D, 2 * D)]
    shapes = [{name: tensor.shape for name, tensor in model.recurrent.blocks.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]
    values = {"permutation_state": one_hot(torch.tensor([0, 1]), S), "task_code": torch.eye(C)[:2]}
    assert models[1].recurrent(values).shape == (2, len(POSITIONS), 2 * D)


def test_widths_of_the_largest_published_network() -> None:
    """D = 16384: the second block gives 16384 from an input of 12288 (ViT-Base, ConvNeXt-Large)."""
    params = changed(
        backbone={"width": 12288, "state_width": 128, "head_width": 64}, denoiser={"channels": [1, 64, 96, 64, 1]}
    )
    with torch.device("meta"):
        model = RPG(
            params,
            TokenPositions(POSITIONS.to("meta"), TOKENS.head_L.to("meta")),
            width=16384,
            sizes={"permutation_state": 50, "task_code": C},
            target="epsilon",
        )
    assert model.recurrent.blocks[0].in_proj.weight.shape == (2 * 2 * 12288 + 256 + 384, 12288)
    assert model.recurrent.blocks[1].in_proj.weight.shape == (2 * 2 * 16384 + 256 + 512, 12288)
    assert model.recurrent.blocks[1].out_proj.weight.shape == (16384, 32768)
    assert [len(model.denoiser.encoder), len(model.denoiser.decoder)] == [3, 1]
