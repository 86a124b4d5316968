"""The stage `prompts` on the miniature that sees images."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import SHOWN

from rpg.config.loading import load_params
from rpg.evaluation.prompts import PromptRivals
from rpg.paths import paths_of
from rpg.tasks.loading import load_prompted
from rpg.utils.files import read_sealed, verified_file

HELD_OUT = ["0100111010", "0111100010"]


@pytest.fixture
def rivals(shown: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, PromptRivals]:
    monkeypatch.chdir(shown)
    experiment, paths = load_params().experiment("shown"), paths_of(load_params(), "shown")
    task = load_prompted(experiment.task, None)
    return {data: PromptRivals(experiment, paths, task, data) for data in ("own", "mnist")}


def test_every_method_has_every_support_set(shown: Path) -> None:
    folder = shown / "results/shown"
    file = verified_file(folder / "prompts.csv", folder / "prompts.json", "rpg prompts")
    rows = pd.read_csv(file, dtype={"code": str})
    sets = len(HELD_OUT) * SHOWN["prompts"]["prompts"]
    shown_rows = rows[rows["images"] > 0]
    counts = shown_rows.groupby(["data", "evenly", "images", "method", "epochs"]).size()
    assert set(counts) == {sets}
    methods = {"rpg", "hypernetwork", "retrieval", "probe", "prototypes", "votes"}
    for data in ("own", "mnist"):
        for images in (1, 3):
            found = counts[data, False, images]
            assert {method for method, _ in found.index} == methods
            found = counts[data, True, images]
            more = {"base", "random", "base, 2 steps", "refined", "tuned as long as refined"}
            assert {method for method, _ in found.index} == methods | more
            assert {epochs for method, epochs in found.index if method == "rpg"} == {0, 1}
    bounds = rows[rows["images"] == 0].groupby(["data", "method"]).size()
    assert bounds.to_dict() == {("own", "trained"): 2, ("own", "lookup"): 2, ("mnist", "trained"): 2}
    assert set(rows["code"]) == set(HELD_OUT)
    assert rows[["validation", "test"]].stack().between(0, 100).all()
    seconds = read_sealed(folder / "prompts.json", "rpg prompts")["seconds"]
    assert all(entry["seconds"] > 0 for entry in seconds)
    table = (folder / "prompts.md").read_text()
    assert "## Held-out tasks on MNIST" in table


def test_a_row_is_the_score_of_its_network(shown: Path, rivals: dict[str, PromptRivals]) -> None:
    own = rivals["own"]
    supports = own.supports(3, True)
    rows = pd.read_csv(shown / "results/shown/prompts.csv", dtype={"code": str})
    chosen = rows[(rows["data"] == "own") & rows["evenly"] & (rows["images"] == 3) & (rows["epochs"] == 0)]
    retrieved = own.retrieved(supports)
    expected = [
        own.task.score(network, "test", support.code) for network, support in zip(retrieved, supports, strict=True)
    ]
    found = chosen[chosen["method"] == "retrieval"]["test"].tolist()
    assert found == pytest.approx(expected, abs=1e-3)


def test_support_sets_are_training_images_of_held_out_tasks(rivals: dict[str, PromptRivals]) -> None:
    for data, own in rivals.items():
        assert own.codes == HELD_OUT
        supports = own.supports(3, True)
        assert [support.code for support in supports] == [code for code in HELD_OUT for _ in range(2)]
        known = {tuple(row) for row in own.on.data.train.images.flatten(1).tolist()}
        for support in supports:
            assert support.answers.tolist() == [0, 0, 0, 1, 1, 1]
            assert {tuple(row) for row in support.images.flatten(1).tolist()} <= known, data
            torch.testing.assert_close(support.features, own.features(support.images))
    one, other = rivals["own"].supports(3, True), rivals["own"].supports(3, True)
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))


def test_other_data_is_seen_as_the_zoo_sees_its_own(rivals: dict[str, PromptRivals]) -> None:
    """MNIST's images are standardized by the statistics of the digits that the networks were trained on."""
    own, other = rivals["own"], rivals["mnist"]
    images = other.on.data.test.images[:4]
    std, mean = own.task.data.train_std_mean
    small = ((images - mean) / std).float()
    torch.testing.assert_close(other.on.inputs("test")[:4], small)
    assert other.on.network is own.task.network


def test_the_base_network_starts_with_a_head_of_zeros(rivals: dict[str, PromptRivals]) -> None:
    own = rivals["own"]
    (network,) = own.based(own.supports(1, True)[:1])
    assert network["fc.weight"].count_nonzero() == 0
    assert torch.equal(network["conv1.0.weight"], own.base["conv1.0.weight"])


def test_trained_networks(rivals: dict[str, PromptRivals]) -> None:
    """Those of the zoo for its own data; for other data, the zoo's recipe trains them."""
    own = rivals["own"].trained()
    assert list(own) == HELD_OUT
    other = rivals["mnist"].trained()
    assert list(other) == HELD_OUT
    assert not torch.equal(own[HELD_OUT[0]]["fc.weight"], other[HELD_OUT[0]]["fc.weight"])
