"""What the benchmarks compare with is the published procedure: it gives the numbers of the preset `paper-rpg`, which
tests/model/test_paper.py holds against the equations. No time is measured here."""

import json
import subprocess
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.common import in_turn, ratio
from benchmarks.jobs import compare_jobs
from benchmarks.memory import measure
from benchmarks.published import Files, Published, batches, training
from benchmarks.shapes import SHAPES, PublishedSteps, Zoo, experiment_of, our_training, shrunk
from benchmarks.stages import measure_stages
from benchmarks.training import mean_score
from rpg.config.loading import load_params
from rpg.config.model import ConvolutionDenoiserConfig, Model, PaperBackboneConfig, PermutationStateCondition
from rpg.model import diffusion
from rpg.model.backbones import TokenPositions
from rpg.model.published_names import from_published
from rpg.model.rpg import RPG
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore

D, M, S = 32, 32, 3
POSITIONS = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]])
CHANNELS = [1, 4, 6, 8, 6, 4, 1]
CPU = torch.device("cpu")


def published_name(name: str, encoders: int) -> str:
    """The published name of a tensor of `Published`."""
    if name == "pe" or name.startswith("mamba_forward"):
        return f"model.{name}"
    name = name.replace("net.", "criteria.net.").replace("time_embedder.", "time_embedder.mlp.")
    head, _, rest = name.partition("steps.")
    if not rest:
        return name
    index, layer, kind = rest.split(".")
    part, place = ("encoder", int(index)) if int(index) < encoders else ("decoder", int(index) - encoders)
    return f"{head}{part}_list.{place}.{'0' if layer == '0' else '1.0'}.{kind}"


@pytest.fixture
def both() -> tuple[Published, RPG]:
    """The benchmarks' network with random weights, and the published architecture here with the same, to evaluate."""
    torch.manual_seed(0)
    published = Published(POSITIONS, D, M, S, CHANNELS)
    torch.nn.init.normal_(published.to_permutation_state.weight)
    for module in published.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    skipped = ("alphas_bar", "net.frequencies")
    state = {name: tensor for name, tensor in published.state_dict().items() if name not in skipped}
    named = {published_name(name, published.net.encoders): tensor for name, tensor in state.items()}
    condition = PermutationStateCondition(kind="permutation_state", reach="all", dropout=0.0)
    widths = {"width": M, "state_width": 128, "head_width": 64, "expand": 2}
    params = Model(
        conditions=[condition],
        backbone=PaperBackboneConfig(kind="paper", prototype_projection=False, **widths),
        denoiser=ConvolutionDenoiserConfig(kind="convolution", channels=CHANNELS, kernel=7),
        start="zero",
    )
    tokens = TokenPositions(POSITIONS, POSITIONS[:, 1] == 1)
    ours = RPG(params, tokens, width=D, sizes={"permutation_state": S}, target="epsilon")
    ours.load_state_dict(from_published(named))
    return published.eval(), ours.eval()


def exactly(published: Published, states_B: Tensor) -> Tensor:
    """Prototypes without bfloat16."""
    return published.mamba_forward(published.pe + published.to_permutation_state(states_B)[:, None])


def test_baseline_has_the_published_numbers(both: tuple[Published, RPG]) -> None:
    published, ours = both
    states_B = torch.tensor([0, 2])
    one_hot = torch.nn.functional.one_hot(states_B, S).float()
    prototypes_BLD = exactly(published, states_B)
    torch.testing.assert_close(prototypes_BLD, ours.recurrent({"permutation_state": one_hot}))
    # Under bfloat16 they are near.
    torch.testing.assert_close(published.prototypes(states_B), prototypes_BLD, rtol=0.05, atol=0.05)
    x, t, prototypes = torch.randn(7, D), torch.arange(7) * 150, torch.randn(7, D)
    torch.testing.assert_close(published.net(x, t, prototypes), ours.denoiser(x, t, prototypes))


def test_baseline_samples_as_ddim_does(both: tuple[Published, RPG]) -> None:
    published, ours = both
    states_B = torch.tensor([1])
    prototypes_BLD = published.prototypes(states_B)
    torch.manual_seed(5)
    found = published.ddim(states_B, 10)
    torch.manual_seed(5)
    x = torch.randn_like(prototypes_BLD)
    with torch.no_grad():
        expected = diffusion.sample(
            lambda x, t: ours.denoiser(x, t, prototypes_BLD),
            x,
            target="epsilon",
            solver="ddim",
            steps=10,
            noise=torch.randn_like,
        )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_baseline_s_loss_is_the_mean_over_what_is_not_padding(both: tuple[Published, RPG]) -> None:
    published, _ = both
    tokens_BLD = torch.randn(2, len(POSITIONS), D)
    tokens_BLD[:, -1, 5:] = torch.nan
    states_B = torch.tensor([0, 1])
    torch.manual_seed(2)
    found = published.loss(tokens_BLD, states_B, 10)
    torch.manual_seed(2)
    picks = torch.randperm(10)
    x0 = tokens_BLD.flatten(0, 1)[picks]
    t, noise = torch.randint(1000, (10,)), torch.randn(10, D)
    x = diffusion.add_noise(x0.nan_to_num(0.0), noise, t)
    errors = (published.net(x, t, published.prototypes(states_B).flatten(0, 1)[picks]) - noise).square()
    torch.testing.assert_close(found, errors[~x0.isnan()].mean())


def test_baseline_reads_the_zoo_s_files_and_learns(finished: Path) -> None:
    store = TokenStore(finished / "results/mini/tokens")
    files = Files(finished / "results/mini/zoo", store)
    assert len(files) == len(store) == 6
    for index in range(len(store)):
        torch.testing.assert_close(files[index], store[index], equal_nan=True)
    torch.manual_seed(0)
    picked, tokens_BLD = next(batches(files, 4))
    torch.testing.assert_close(tokens_BLD, torch.stack([store[index] for index in picked]), equal_nan=True)
    model = Published(store.layout.positions(), store.layout.width, 64, len(store), [1, 4, 4, 4, 1])
    steps = training(model, files, 4, 1000, 1e-3, lambda: 0.0, CPU)
    losses = [next(steps) for _ in range(60)]
    # Three seeds have 0.44 to 0.58.
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_shapes_are_the_paper_s_and_both_step_on_them() -> None:
    full = experiment_of(SHAPES["vit_base"], "paper")
    assert (full.tokens.width, full.model.backbone.width) == (16384, 12288)
    assert (full.train.batch, full.train.diffusion_batch) == (2, 512)
    shape = shrunk(SHAPES["vit_tiny"], 128)
    zoo = Zoo(shape)
    published = PublishedSteps(shape, zoo)
    assert published.one_step() > 0
    for network in ("paper", "residual"):
        experiment = experiment_of(shape, network)
        training_of = our_training(experiment, zoo)
        assert training_of.one_step() > 0
        if network == "paper":
            # The same network, but for the checkpoints' states.
            own = {name: parameter.shape for name, parameter in published.model.named_parameters()}
            assert training_of.parameters == sum(shape.numel() for shape in own.values())


@pytest.mark.parametrize("way", ["published", "paper"])
def test_memory_is_what_torch_s_allocator_counts(way: str, capsys) -> None:
    measure(way, "vit_tiny", 256, 1)
    of_torch, _ = json.loads(capsys.readouterr().out)
    chosen = shrunk(SHAPES["vit_tiny"], 256)
    zoo = Zoo(chosen)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        training = PublishedSteps(chosen, zoo) if way == "published" else our_training(experiment_of(chosen, way), zoo)
        for _ in range(2):
            training.one_step()
    sizes = [
        (event.start_time_ns, event.extra_fields.alloc_size)
        for event in _all(profile.profiler.kineto_results.experimental_event_tree())
        if type(event.extra_fields).__name__ == "_ExtraFields_Allocation"
    ]
    assert of_torch == pytest.approx(max(accumulate(size for _, size in sorted(sizes))), rel=0.05)


def _all(events: list[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _all(event.children)


def test_accuracy_is_on_the_validation_split(finished: Path) -> None:
    """A benchmark's settings are choices, and the test split makes none."""
    scores = json.loads((finished / "results/mini/scores.json").read_text())["rpg"]
    task = load_task(load_params(finished / "params.yaml").experiment("mini").task, None)
    networks = [load_file(finished / "results/mini/samples" / entry["file"]) for entry in scores]
    found = mean_score(task, networks)
    assert found == pytest.approx(sum(entry["validation"] for entry in scores) / 4, abs=0.3)
    for split in (task.data.test.images, task.data.test.labels):
        split.zero_()
    assert mean_score(task, networks) == found


def test_turns_and_ratios() -> None:
    calls: list[str] = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert [len(taken) for taken in seconds.values()] == [2, 2]
    assert ratio([4.0, 9.0, 2.0], [2.0, 3.0, 2.0]) == {"ratio": 2.0, "smallest": 1.0, "largest": 3.0}


def test_seconds_of_stages_are_those_of_the_logs(tmp_path: Path) -> None:
    for run, seconds in {"before": 4.0, "now": 1.5}.items():
        for name in ("a/zoo-0000-0003", "a/zoo-0004-0007", "a/train", "tables"):
            path = tmp_path / run / f"{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"s\th:m:s\n{seconds}\t0:00:01\n")
    rows = measure_stages(tmp_path / "now", tmp_path / "before", tmp_path / "out.json")
    by_stage = {row.pop("stage"): row for row in rows}
    assert by_stage["zoo"] == {"jobs": 2, "seconds before": 8, "seconds": 3}
    assert by_stage["all"] == {"jobs": 4, "seconds before": 16, "seconds": 6}
    assert json.loads((tmp_path / "out.json").read_text())["date"]


def test_jobs_run_in_both_checkouts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    (row,) = compare_jobs(ROOT, ["schema"], 1, tmp_path / "out.json")
    assert row["job"] == "schema"
    assert row["smallest"] <= row["ratio"] <= row["largest"]
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == [row]
    with pytest.raises(subprocess.CalledProcessError):
        compare_jobs(ROOT, ["sample --experiment unknown"], 1, tmp_path / "out.json")
