from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import SHOWN

from rpg.config.loading import load_params
from rpg.model.set_encoder import SetEncoder
from rpg.paths import paths_of
from rpg.tokenizer.store import TokenStore
from rpg.training.model_file import fresh
from rpg.training.prompts import MOST, TextPrompts, draw_support, prompts_of, without_classes
from rpg.utils.errors import UserError

CLASSES = torch.arange(4).repeat(6)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("evenly", [True, False])
def test_images_answer_the_task(seed: int, evenly: bool) -> None:
    no, yes = draw_support(CLASSES, "0110", 5, evenly, draw(seed))
    assert len(no) == len(yes) == 5
    assert {*CLASSES[no].tolist()} <= {0, 3}
    assert {*CLASSES[yes].tolist()} <= {1, 2}
    assert len({*no, *yes}) == 10


def test_evenly_means_that_classes_take_turns() -> None:
    no, yes = draw_support(CLASSES, "0111", 4, True, draw())
    assert Counter(CLASSES[no].tolist()) == {0: 4}
    counts = Counter(CLASSES[yes].tolist())
    assert sorted(counts.values()) == [1, 1, 2]
    _, five = draw_support(CLASSES, "0111", 5, True, draw())
    assert sorted(Counter(CLASSES[five].tolist()).values()) == [1, 2, 2]


def test_more_images_than_there_are_repeat_them() -> None:
    no, yes = draw_support(CLASSES, "0111", 13, True, draw())
    assert Counter(Counter(no).values()) == {2: 5, 3: 1}
    assert len({*yes}) == 13
    no, _ = draw_support(CLASSES, "0111", 13, False, draw())
    assert Counter(Counter(no).values()) == {2: 5, 3: 1}


def test_classes_without_a_bit_or_without_images_are_not_shown() -> None:
    no, yes = draw_support(CLASSES, "0-1-", 6, True, draw())
    assert ({*CLASSES[no].tolist()}, {*CLASSES[yes].tolist()}) == ({0}, {2})
    no, yes = draw_support(CLASSES, "01000001", 6, True, draw())
    assert ({*CLASSES[no].tolist()}, {*CLASSES[yes].tolist()}) == ({0, 2, 3}, {1})


def test_some_of_either_side_stay() -> None:
    codes = {without_classes("0001101010", {*range(10)}, draw(seed)) for seed in range(60)}
    assert len(codes) > 30
    for code in codes:
        assert {"0", "1"} <= {*code}
        assert all(bit in (own, "-") for bit, own in zip(code, "0001101010", strict=True))
    assert {without_classes("0001101010", {0, 3}, draw(seed)) for seed in range(9)} == {"0--1------"}


def test_prompts_of_a_zoo(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shown)
    experiment = load_params().experiment("shown")
    paths = paths_of(load_params(), "shown")
    prompts = prompts_of(experiment, paths.folder("base"), None)
    assert prompts
    assert prompts.features_nF.shape == (1097, 18)
    values = prompts.values(["0100111010", "1011000101"], 3, True, draw())
    assert values.shape == (2, 2, 3, 19)
    assert (values[..., -1] == 1).all()
    known = {tuple(row) for row in prompts.features_nF.tolist()}
    assert all(tuple(row) in known for row in values[..., :-1].flatten(0, 2).tolist())
    sizes = [prompts.draw(["0100111010"], draw(seed)).shape[2] for seed in range(200)]
    assert (min(sizes), max(sizes) <= MOST) == (1, True)
    # The median of the larger of two uniform numbers is √½, and 50^√½ is 15.9.
    assert 12 < sorted(sizes)[100] < 21
    model = fresh(experiment.model, experiment.diffusion, TokenStore(paths.folder("tokens")))
    prompts.fit(model)
    (encoder,) = (kind for _, kind in model.recurrent.conditions.named() if isinstance(kind, SetEncoder))
    torch.testing.assert_close(encoder.mean, prompts.features_nF.mean(0))
    torch.testing.assert_close(encoder.std, prompts.features_nF.std(0, correction=0))


def test_another_number_of_features_is_refused(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shown)
    experiment, paths = load_params().experiment("shown"), paths_of(load_params(), "shown")
    conditions = [
        one.model_copy(update={"features": 7}) if one.kind == "images" else one for one in experiment.model.conditions
    ]
    changed = experiment.model_copy(update={"model": experiment.model.model_copy(update={"conditions": conditions})})
    with pytest.raises(UserError, match=r"images: features: 7, .* gives 18; set features to 18"):
        prompts_of(changed, paths.folder("base"), None)
    assert SHOWN["model"]["conditions"][1]["features"] == 18


@pytest.fixture
def questions(asked: Path, monkeypatch: pytest.MonkeyPatch) -> TextPrompts:
    monkeypatch.chdir(asked)
    prompts = prompts_of(load_params().experiment("asked"), Path("results/asked/base"), None)
    assert isinstance(prompts, TextPrompts)
    return prompts


def test_questions_of_held_out_tasks_set_no_statistics(questions: TextPrompts) -> None:
    task = load_params().experiment("asked").task
    seen = sum(len(questions.by_code[code]) for code in task.seen)
    assert questions.features_nF.shape == (seen, 64)
    assert {*questions.by_code} == {*task.seen, *task.held_out}


def test_a_draw_has_different_questions_of_its_task(questions: TextPrompts) -> None:
    values = questions.values(["home-of-truth", "home-of-blank"], 7, draw())
    assert values.shape == (2, 1, 7, 65)
    for code, rows in zip(["home-of-truth", "home-of-blank"], values[:, 0], strict=True):
        known = questions.by_code[code]
        picks = [int((known == row[:-1]).all(1).nonzero()[0]) for row in rows]
        assert len({*picks}) == 7
        assert (rows[:, -1] == 1).all()
    everything = questions.values(["home-of-truth"], 1000, draw())
    assert everything.shape[2] == len(questions.by_code["home-of-truth"])


def test_sizes_of_prompts_are_spread_over_their_logarithm(questions: TextPrompts) -> None:
    sizes = [questions.drawn(["size-bigger-truth"], 0.0, draw(seed))[1].shape[2] for seed in range(200)]
    assert min(sizes) == 1
    most = len(questions.by_code["size-bigger-truth"])
    assert max(sizes) == most
    # Half of the sizes are below the square root of 128.
    assert 0.4 < sum(size <= 11 for size in sizes) / len(sizes) < 0.6


def test_the_number_of_features_must_be_right(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(asked)
    experiment = load_params().experiment("asked")
    assert experiment.model.text
    wrong = experiment.model.text.model_copy(update={"hidden_states": [1]})
    conditions = [experiment.model.conditions[0], wrong]
    changed = experiment.model_copy(update={"model": experiment.model.model_copy(update={"conditions": conditions})})
    with pytest.raises(UserError, match=r"text: features: 64, .* gives 32; set features to 32"):
        prompts_of(changed, Path("results/asked/base"), None)
