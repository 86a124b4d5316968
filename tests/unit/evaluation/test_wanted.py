import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import MINIATURE, run_layers, write_tree

from rpg.config.experiment import Wanted
from rpg.config.loading import load_params
from rpg.evaluation.results import Agreement
from rpg.evaluation.wanted import Correction, WantedScores, asked, inverted, read_wanted, summaries, table
from rpg.paths import Paths
from rpg.utils.errors import UserError

WANTED = {"seed": 0, "networks": 2, "between": 2, "requests": {"accuracy": [20, 60], "step": [10, 44]}}
CONDITIONS = [
    {"kind": "permutation_state", "reach": "all", "dropout": 0.0},
    {
        "kind": "vector", "field": "validation_top1", "name": "accuracy", "hidden": None, "reach": "all",
        "dropout": 0.5,
    },
    {"kind": "vector", "field": "step", "hidden": None, "reach": "all", "dropout": 0.5},
]  # fmt: skip
MINI = {
    **MINIATURE,
    "zoo": {**MINIATURE["zoo"], "early": [10, 20, 30], "early_held_out": [2]},
    "model": {**MINIATURE["model"], "conditions": CONDITIONS},
    "wanted": WANTED,
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wanted")
    write_tree(folder, mini=MINI)
    run_layers(folder, "zoo", "collect", "tokens", "train", "wanted")
    return folder


def rows_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results/mini/wanted.csv", dtype={"states": str})


def test_requests_by_hand() -> None:
    params = Wanted.model_validate({**WANTED, "requests": {"accuracy": [20.0, 60.0]}})
    found = asked(params, ["learned", "learned", "held_out"])
    assert [(one.number, one.states, one.set) for one in found if one.set != "between"] == [
        (number, (state,), "held_out" if state == 2 else "learned") for number in (20.0, 60.0) for state in range(3)
    ]
    pairs = [one.states for one in found if one.set == "between" and one.number == 20.0]
    # One of two pairs has the held-out state.
    assert [2 in pair for pair in pairs] == [True, False]
    assert pairs == [one.states for one in found if one.set == "between" and one.number == 60.0]


def test_rpg_never_saw_the_early_saves_of_the_held_out_run(wanted: Path) -> None:
    layout = json.loads((wanted / "results/mini/tokens/layout.json").read_text())
    assert [(one["seed"], one["step"]) for one in layout["held_out"]] == [(2, 10), (2, 20), (2, 30)]
    assert {(one["seed"], one["step"]) for one in layout["checkpoints"]} == {
        *((seed, step) for seed in (0, 1) for step in (10, 20, 30, 42, 44)), (2, 42), (2, 44)
    }  # fmt: skip


def test_every_request_has_its_networks_and_baselines(wanted: Path) -> None:
    rows = rows_of(wanted)
    counts = rows.groupby(["method", "vector", "set"]).size().to_dict()
    numbers, networks = 2, 2
    assert counts == {
        **{
            (method, vector, name): numbers * networks * states
            for method, vector in (("rpg", "accuracy"), ("rpg", "step"), ("rpg_corrected", "accuracy"))
            for name, states in (("learned", 2), ("held_out", 1), ("between", 2))
        },
        ("nearest_checkpoint", "accuracy", "held_out"): numbers,
        ("interpolation", "accuracy", "held_out"): numbers,
        ("noise", "accuracy", "held_out"): numbers * networks,
    }
    accuracy = rows[rows["vector"] == "accuracy"]
    assert (accuracy["aim_test"] == accuracy["asked"]).all()


def test_a_step_is_compared_with_the_checkpoint_of_this_step(wanted: Path) -> None:
    rows = rows_of(wanted)
    listed = json.loads((wanted / "results/mini/zoo/checkpoints.json").read_text())["checkpoints"]
    saved = {(one["seed"], one["step"]): one["validation_top1"] for one in listed}
    steps = rows[(rows["vector"] == "step") & (rows["set"] != "between")]
    for row in steps.itertuples():
        assert row.aim_validation == pytest.approx(saved[int(row.states), int(row.asked)], abs=1e-3)


def test_noise_and_interpolation_have_the_asked_score_on_the_validation_split(wanted: Path) -> None:
    """With three saves and a last one above 60 %, both come near on the split that they are fitted to."""
    rows = rows_of(wanted)
    noise = rows[(rows["method"] == "noise") & (rows["asked"] == 20)]
    assert (noise["validation"] - 20).abs().max() < 10
    listed = json.loads((wanted / "results/mini/zoo/checkpoints.json").read_text())["checkpoints"]
    scores = [one["validation_top1"] for one in listed if one["seed"] != 2]
    nearest = rows[rows["method"] == "nearest_checkpoint"].sort_values("asked")
    best = [min(scores, key=lambda score, number=number: abs(score - number)) for number in (20, 60)]
    assert nearest["validation"].tolist() == pytest.approx(best, abs=1e-3)


def test_summary_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "method": "rpg", "vector": "accuracy", "set": "held_out", "states": ["0", "0", "1", "1"], "seed": 0,
            "asked": [60.0, 80.0, 60.0, 80.0], "aim_validation": [60.0, 80.0, 60.0, 80.0],
            "aim_test": [60.0, 80.0, 60.0, 80.0], "validation": [61.0, 79.0, 63.0, 81.0],
            "test": [62.0, 81.0, 58.0, 85.0],
        }
    )  # fmt: skip
    (entry,) = summaries(rows)
    assert entry["n"] == 4
    assert entry["test"]["error"] == 2.5
    assert entry["test"]["bias"] == 1.5
    # Ranks 1.5, 3.5, 1.5, 3.5 against 2, 3, 1, 4: covariance 4 over sqrt(4 · 5).
    assert entry["test"]["correlation"] == round(4 / 20**0.5, 4)
    # The states' means 1.5 and 3.5 differ by 2: a standard error of 1, times Student's t with one degree of freedom.
    assert entry["test"]["interval"] == pytest.approx([2.5 - 12.7062, 2.5 + 12.7062], abs=1e-3)
    assert entry["test"]["at"][0] == {"asked": 60.0, "aim": 60.0, "got": 60.0, "std": 2.0}
    shown = table([Agreement.model_validate(entry)], "top1")
    assert "| accuracy | rpg | held_out | 4 | 0.894 | 1.50" in shown
    assert "| 80 | 80.0 | 83.0 ± 2.0 | 80.0 | 80.0 ± 1.0 |" in shown


def test_summary_over_trainings_has_the_baselines_once(wanted: Path) -> None:
    paths = Paths("mini", wanted / "results")
    one, two = read_wanted([paths]), read_wanted([paths, paths])
    for before, after in zip(one, two, strict=True):
        assert after["n"] == before["n"] * (2 if before["method"].startswith("rpg") else 1)
        assert after["test"]["error"] == pytest.approx(before["test"]["error"], abs=1e-3)


def test_unknown_vector(wanted: Path, tmp_path: Path) -> None:
    write_tree(tmp_path, mini={**MINI, "wanted": {**WANTED, "requests": {"loss": [1, 2]}}})
    shutil.copytree(wanted / "results", tmp_path / "results")
    experiment = load_params(tmp_path / "params.yaml").experiment("mini")
    with pytest.raises(UserError, match=r"wanted\.requests: no vector 'loss'; known: accuracy, step"):
        WantedScores(experiment, Paths("mini", tmp_path / "results"), None)


def test_inverted_by_hand() -> None:
    numbers, scores = np.array([10.0, 20.0, 30.0, 40.0, 50.0]), np.array([10.0, 30.0, 20.0, 60.0, 5.0])
    # The fall from 30 to 20 becomes 25 at the middle of both. What lies beyond the best score, 60, does not count.
    assert inverted(numbers, scores, [10.0, 25.0, 42.5, 60.0]) == [10.0, 25.0, 32.5, 40.0]
    # No score is so high or so low.
    assert inverted(numbers, scores, [0.0, 99.0]) == [10.0, 40.0]


def test_correction_finds_the_number_of_a_wanted_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """With networks that score 30 less than the number in the request, and at random above 140."""

    class Judge:
        metric = "top1"

        def judge_all(self, networks: list[float], split: str, codes: list[None]) -> list[SimpleNamespace]:
            assert split == "validation"
            scores = [number - 30 if number <= 140 else 10 for number in networks]
            return [SimpleNamespace(scores={"top1": score}) for score in scores]

    correction = object.__new__(Correction)
    correction.range, correction.task = (0.0, 150.0), Judge()  # type: ignore[assignment]
    seeds: list[int] = []
    monkeypatch.setattr(correction, "networks", lambda states, seed, numbers: seeds.append(seed) or numbers)
    assert correction.numbers((0,), [40.0, 83.0]) == pytest.approx([70.0, 113.0])
    # The noise of the measured networks has the seeds 0 and 1.
    assert min(seeds) > 1000
