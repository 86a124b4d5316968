"""Tokens and back, for real timm networks, against numbers worked out by hand."""

import math

import pytest
import timm
import torch
from conftest import ROOT
from torch import Tensor

from rpg.config.loading import load_params
from rpg.tokenizer.layout import Layout
from rpg.tokenizer.normalization import CHUNK, ROW, Stats, detokenize, tokenize, tokenize_rows

NETWORKS = {
    "resnet18": {},
    "vit_tiny_patch16_224": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24},
    "regnetx_002": {},
    "mixer_s32_224": {},
}


def trained_like(name: str, seed: int, **arguments: int) -> dict[str, Tensor]:
    """A network's state dict with the variety of a trained one: spread variances, some dead channels."""
    torch.manual_seed(seed)
    state_dict = timm.create_model(name, **arguments).state_dict()
    for key, tensor in state_dict.items():
        if key.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) ** 6 * 10)
            tensor[0] = 0
        elif key.endswith("running_mean"):
            tensor.normal_()
        elif key.endswith("num_batches_tracked"):
            tensor.fill_(1000 + seed)
    return state_dict


def assert_comes_back(state_dicts: list[dict[str, Tensor]], layout: Layout) -> None:
    stats = Stats.of(layout, state_dicts)
    for state_dict in state_dicts:
        back = detokenize(tokenize(state_dict, layout, stats), layout, stats, state_dict)
        assert list(back) == list(state_dict)
        for key, tensor in state_dict.items():
            assert back[key].dtype == tensor.dtype
            if tensor.is_floating_point():
                error = (back[key] - tensor).abs().max()
                # Relative to the tensor's largest weight: a weight of 1e-9 beside one of 1 has no digits to lose.
                assert error <= 1e-6 * tensor.abs().max(), (key, error)
            else:
                assert torch.equal(back[key], tensor)


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(name: str) -> None:
    state_dicts = [trained_like(name, seed, num_classes=10, **NETWORKS[name]) for seed in range(2)]
    assert_comes_back(state_dicts, Layout.of(state_dicts[0], 1000))


@pytest.mark.long
@pytest.mark.parametrize(
    ("experiment", "numbers", "tokens", "counters"),
    [
        ("imagenet-resnet18", 11_699_132, 1510, 20),
        ("imagenet-resnet50", 25_610_205, 3329, 53),
        ("imagenet-resnet50_gn", 25_557_032, 3223, 0),
        ("imagenet-vit_tiny", 5_717_416, 808, 0),
        ("imagenet-vit_small", 22_050_664, 2786, 0),
        ("imagenet-vit_base", 86_567_656, 5378, 0),
        ("imagenet-convnext_atto", 3_695_520, 552, 0),
        ("imagenet-convnext_large", 197_767_336, 12311, 0),
    ],
)
def test_round_trip_of_the_papers_networks(experiment: str, numbers: int, tokens: int, counters: int) -> None:
    """At full size, BatchNorm's buffers included, in tokens of the paper's width; the network takes what comes back."""
    chosen = load_params(ROOT / "params.yaml").experiment(experiment)
    name = chosen.task.network.name
    state_dicts = [trained_like(name, seed) for seed in range(2)]
    layout = Layout.of(state_dicts[0], chosen.tokens.width)
    assert sum(tensor.numel() for tensor in state_dicts[0].values()) == numbers
    assert (layout.length, len(layout.skipped)) == (tokens, counters)
    assert_comes_back(state_dicts, layout)
    stats = Stats.of(layout, state_dicts)
    back = detokenize(tokenize(state_dicts[1], layout, stats), layout, stats, state_dicts[1])
    timm.create_model(name).load_state_dict(back)


def small() -> dict[str, Tensor]:
    return {
        "b.weight": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]]),
        "a.running_var": torch.tensor([0.5, 2.0]),
        "a.num_batches_tracked": torch.tensor(3),
        "scale": torch.tensor([2.5]),
        "index": torch.tensor([1, 2]),
    }


def test_tokens_by_hand() -> None:
    """Two checkpoints; statistics are averages of each checkpoint's own."""
    first, second = small(), small()
    second["b.weight"] = first["b.weight"] * 3
    second["a.running_var"] = first["a.running_var"] * 2
    layout = Layout.of(first, 4)
    assert [(tensor.name, tensor.first, tensor.tokens) for tensor in layout.tokenized] == [
        ("b.weight", 0, 2),
        ("a.running_var", 2, 1),
    ]
    assert [tensor.name for tensor in layout.skipped] == ["a.num_batches_tracked", "scale", "index"]
    assert layout.positions().tolist() == [[0, 0], [1, 0], [0, 1]]
    assert layout.padding().sum(1).tolist() == [0, 2, 2]

    stats = Stats.of(layout, [first, second])
    mean, std = 22 / 6, math.sqrt(sum((w - 22 / 6) ** 2 for w in [1, 2, 3, 4, 5, 7]) / 5)
    assert stats.mean[0].item() == pytest.approx(2 * mean)
    assert stats.std[0].item() == pytest.approx(2 * std)
    # Each checkpoint's own m makes the transformed variances of both the same.
    low, high = math.log(0.5 / (0.95 * 1.25) + 0.05), math.log(2 / (0.95 * 1.25) + 0.05)
    assert stats.mean[1].item() == pytest.approx((low + high) / 2)
    assert stats.std[1].item() == pytest.approx((high - low) / math.sqrt(2))
    assert stats.scale[1].item() == pytest.approx(0.95 * (1.25 + 2.5) / 2)
    assert stats.floor[1].item() == 0.001

    tokens = tokenize(first, layout, stats)
    assert tokens.dtype == torch.float32
    assert tokens[0].tolist() == pytest.approx([(w - 2 * mean) / (2 * std) for w in [1, 2, 3, 4]], rel=1e-6)
    assert tokens[1, :2].tolist() == pytest.approx([(w - 2 * mean) / (2 * std) for w in [5, 7]], rel=1e-6)
    assert torch.equal(tokens.isnan(), layout.padding())
    # Tokenizing takes the average m.
    variance = math.log(0.5 / (0.95 * 1.875) + 0.05)
    assert tokens[2, 0].item() == pytest.approx((variance - (low + high) / 2) / stats.std[1].item(), rel=1e-6)


def test_generated_variance_is_never_below_the_floor() -> None:
    layout = Layout.of(small(), 4)
    stats = Stats.of(layout, [small()])
    tokens = tokenize(small(), layout, stats)
    tokens[2, 0] = -100
    variance = detokenize(tokens, layout, stats, small())["a.running_var"][0].item()
    assert variance == pytest.approx(0.001 * 0.95 * 1.25)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
def test_constant_tensor_round_trips(value: float) -> None:
    state_dict = {"weight": torch.full((7,), value), "bn.running_var": torch.full((5,), abs(value))}
    layout = Layout.of(state_dict, 4)
    stats = Stats.of(layout, [state_dict, state_dict])
    tokens = tokenize(state_dict, layout, stats)
    assert torch.equal(tokens.isnan(), layout.padding())
    back = detokenize(tokens, layout, stats, {})
    for name in state_dict:
        torch.testing.assert_close(back[name], state_dict[name], rtol=1e-6, atol=1e-12)


def test_half_precision_comes_back_in_its_own_type() -> None:
    state_dict = {"weight": torch.randn(9).bfloat16(), "other": torch.randn(9).half()}
    layout = Layout.of(state_dict, 4)
    stats = Stats.of(layout, [state_dict])
    back = detokenize(tokenize(state_dict, layout, stats), layout, stats, {})
    assert torch.equal(back["weight"], state_dict["weight"])
    assert torch.equal(back["other"], state_dict["other"])


@pytest.mark.parametrize("length", [2, 100, ROW, ROW + 1, CHUNK, 2 * CHUNK + ROW + 7])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_statistics_are_those_of_the_whole_tensor(length: int, offset: float) -> None:
    """Of chunks, as of all numbers in float64 at once; to the bit for any number of threads."""
    torch.manual_seed(length)
    state_dict = {"weight": torch.randn(length) + offset}
    layout = Layout.of(state_dict, 1000)
    std, mean = torch.std_mean(state_dict["weight"].double())
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(Stats.of(layout, [state_dict]))
    finally:
        torch.set_num_threads(threads)
    assert found[0].std.item() == pytest.approx(std.item(), rel=1e-10)
    assert found[0].mean.item() == pytest.approx(mean.item(), rel=1e-10)
    for other in found[1:]:
        assert torch.equal(other.std, found[0].std)
        assert torch.equal(other.mean, found[0].mean)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_blocks_of_rows_are_parts_of_all_tokens(count: int) -> None:
    state_dict = trained_like("resnet18", 0, num_classes=10)
    layout = Layout.of(state_dict, 20_000)
    stats = Stats.of(layout, [state_dict])
    tokens_LD = tokenize(state_dict, layout, stats)
    for start in range(0, layout.length, 97):
        block_RD = torch.zeros(min(count, layout.length - start), layout.width)
        tokenize_rows(state_dict, layout, stats, start, block_RD)
        assert torch.equal(block_RD.view(torch.int32), tokens_LD[start : start + count].view(torch.int32))


def test_round_trip_of_tokens_by_channel() -> None:
    state_dicts = [trained_like("resnet18", seed, layers=[1, 1, 0, 0], channels=[8, 8, 8, 8]) for seed in range(2)]
    assert_comes_back(state_dicts, Layout.of(state_dicts[0], 40, by_channel=True))


def test_blocks_of_rows_by_channel_are_parts_of_all_tokens() -> None:
    state_dict = {"a.weight": torch.randn(5, 7), "a.bias": torch.randn(5)}
    layout = Layout.of(state_dict, 4, by_channel=True)
    stats = Stats.of(layout, [state_dict])
    tokens_LD = tokenize(state_dict, layout, stats)
    assert torch.equal(tokens_LD.isnan(), layout.padding())
    parts = [
        tokenize_rows(state_dict, layout, stats, start, torch.empty(3, 4)[: layout.length - start])
        for start in range(0, layout.length, 3)
    ]
    assert torch.equal(torch.cat(parts).nan_to_num(9), tokens_LD.nan_to_num(9))
