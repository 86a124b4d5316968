"""The stage `prompts` on the miniature that sees questions."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ASKED

from rpg.config.loading import load_params
from rpg.evaluation.question_prompts import QuestionRivals
from rpg.paths import paths_of
from rpg.tasks.loading import load_task, text_task
from rpg.utils.files import read_sealed, read_tensors, verified_file

HELD_OUT = ASKED["task"]["held_out"]


@pytest.fixture
def rivals(asked: Path, monkeypatch: pytest.MonkeyPatch) -> QuestionRivals:
    monkeypatch.chdir(asked)
    experiment, paths = load_params().experiment("asked"), paths_of(load_params(), "asked")
    return QuestionRivals(experiment, paths, text_task(load_task(experiment.task, None)))


def test_every_method_has_every_draw(asked: Path) -> None:
    folder = asked / "results/asked"
    rows = pd.read_csv(verified_file(folder / "prompts.csv", folder / "prompts.json", "rpg prompts"))
    counts = rows.groupby(["questions", "method"]).size()
    for_prompts = {"rpg", "hypernetwork", "ridge_questions", "nearest_questions", "soup"}
    assert {*counts[1].index} == for_prompts
    assert {*counts[4].index} == {*for_prompts, "in_context"}
    assert {*counts[0].index} == {"trained", "mean_network", "together", "alone"}
    assert {*counts[1]} == {*counts[4]} == {len(HELD_OUT) * 2}
    assert {*counts[0]} == {len(HELD_OUT)}
    assert rows[rows["new"]]["code"].unique().tolist() == ["speed-faster-truth"]
    assert rows["test"].between(0, 100).all()
    seconds = read_sealed(folder / "prompts.json", "rpg prompts")["seconds"]
    assert {(one["questions"], one["method"]) for one in seconds} == {
        *((count, method) for count in (1, 4) for method in for_prompts),
        (4, "in_context"),
        (0, "trained"),
        (0, "together"),
    }
    table = (folder / "prompts.md").read_text()
    assert "| RPG | questions |" in table
    assert "of the trained adapters' accuracy" in table


def test_draws_are_training_questions_and_the_same_each_time(rivals: QuestionRivals) -> None:
    draws = rivals.draws(4)
    assert [draw.code for draw in draws] == [code for code in rivals.codes for _ in range(2)]
    assert draws[0].picks != draws[1].picks
    assert [draw.picks for draw in draws] == [draw.picks for draw in rivals.draws(4)]
    for draw in draws:
        assert len({*draw.picks}) == 4
        assert torch.equal(draw.features, rivals.features[draw.code][list(draw.picks)])
        torch.testing.assert_close(rivals.read(draw).features, draw.features)
    assert len(rivals.draws(1000)[0].picks) == len(rivals.task.prompt_texts("train", draws[0].code))


def test_the_nearest_adapter_is_one_of_the_zoo_and_a_soup_the_mean_of_two(asked: Path, rivals: QuestionRivals) -> None:
    zoo = {one.code: read_tensors(asked / "results/asked/zoo" / one.file) for one in rivals.store.checkpoints}
    draws = rivals.draws(4)
    means = torch.stack([rivals.features[code].mean(0) for code in rivals.seen]).double()
    spread = means.std(0, correction=0).where(means.std(0, correction=0) > 1e-9, torch.tensor(1.0).double())
    for draw, nearest in zip(draws, rivals.nearest(draws), strict=True):
        away = ((draw.features.mean(0).double() - means) / spread).square().sum(1)
        expected = zoo[rivals.seen[int(away.argmin())]]
        for name in ("down_proj", "q_proj"):
            # The canonical form changes the factors, not their product.
            (a, b) = (next(key for key in expected if name in key and part in key) for part in ("lora_A", "lora_B"))
            torch.testing.assert_close(nearest[b] @ nearest[a], expected[b] @ expected[a], atol=1e-4, rtol=1e-3)
    # With four seen tasks and all of them in it, a soup is the mean of all adapters.
    rivals.params = rivals.params.model_copy(update={"nearest": 4})
    soup, mean = rivals.soup(draws[:1])[0], rivals.mean_adapter()
    for name, tensor in mean.items():
        torch.testing.assert_close(soup[name], tensor)


def test_every_checkpoint_of_a_held_out_task_is_a_trained_one(rivals: QuestionRivals) -> None:
    """Two runs or two saves of a task are two networks."""
    assert [code for code, _ in rivals.trained()] == [one.code for one in rivals.store.held_out]
    rivals.store.held_out = [*rivals.store.held_out, *rivals.store.held_out]
    assert len(rivals.trained()) == 2 * len(HELD_OUT)


def test_a_row_is_the_score_of_its_adapter(asked: Path, rivals: QuestionRivals) -> None:
    rows = pd.read_csv(asked / "results/asked/prompts.csv")
    draws = rivals.draws(4)
    expected = rivals.judged(rivals.soup(draws), [draw.code for draw in draws])
    own = rows[(rows["questions"] == 4) & (rows["method"] == "soup")]
    assert own["test"].tolist() == pytest.approx(expected, abs=1e-3)
