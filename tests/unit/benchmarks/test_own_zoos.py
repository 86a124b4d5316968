"""The benchmark of zoos of one's own: verdicts, counts of tensors and cases, and its table. No zoo is trained."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.own_zoos import counts, grouped, row
from benchmarks.own_zoos.cases import CASES, MLP, Case
from benchmarks.own_zoos.product import (
    REQUEST,
    Outcome,
    changed,
    count,
    fault,
    mean_score,
    outcome,
    said,
    verdict,
    write_request,
)
from benchmarks.own_zoos.writers import states
from benchmarks.own_zoos.zoo import EVERY, SAVES, STEPS, save_after
from rpg.config.loading import load_params

CASE = Case("plain", "torch", MLP, states())
SAID = """zoo/a: some other line
found: 3 checkpoints, 3 of each of 1 runs; each folder is a run
written by: torch.save, a state dict
read: the checkpoint's 'model'
round trip: as tokens and back, a tensor changes by at most 1.0e-07 of its largest weight
round trip: accuracy 90.00 before, 90.50 after
"""
FOUND = "torch.save, a state dict; 3 checkpoints, 3 of each of 1 runs; the checkpoint's 'model'"
TRIP = "1.0e-07, 90.00 → 90.50"
WARNING = "zoo: zoo/a: its checkpoints differ; if they are, list each in zoo.runs"
TENSORS = [
    {"name": "0.weight", "tokens": 2},
    {"name": "0.bias", "tokens": 1, "tied_to": None},
    {"name": "1.weight", "tokens": 0, "tied_to": "0.weight"},
    {"name": "mask", "tokens": 0},
]


def write_run(folder: Path, code: int, errors: str = "", means: tuple[float, float] = (0.0, 0.0)) -> Path:
    """Write what a run of the product leaves in a folder."""
    results = folder / "results/own"
    (results / "tokens").mkdir(parents=True)
    (results / "zoo/0000-0000").mkdir(parents=True)
    for place in range(3):
        save_file(
            {"0.weight": torch.full((2, 2), float(place))}, results / f"zoo/0000-0000/0000-{place:04d}.safetensors"
        )
    (results / "tokens/layout.json").write_text(json.dumps({"layout": {"tensors": TENSORS}}))
    test = {"metric": "accuracy", "original": {"mean": means[0]}, "rpg": {"mean": means[1]}}
    (results / "test.json").write_text(json.dumps(test))
    (folder / "out").write_text(SAID)
    (folder / "code").write_text(str(code))
    (folder / "err").write_text(errors)
    return folder


@pytest.mark.parametrize(
    ("trained", "originals", "samples", "expected"),
    [
        (90.0, 90.0, 90.0, "right"),
        (90.0, 89.5, 86.9, "right"),
        # The samples are below 0.97 of the originals.
        (90.0, 90.0, 87.2, "wrong"),
        # The originals are another function than the one that was trained.
        (90.0, 62.0, 62.0, "wrong"),
    ],
)
def test_verdicts(trained: float, originals: float, samples: float, expected: str) -> None:
    assert verdict(trained, originals, samples) == expected


def test_faults_are_the_last_line() -> None:
    assert fault(2, "zoo: 1 of 1\nrpg: error: no\n") == Outcome("refused", "no")
    trace = "Traceback (most recent call last):\n  File\nKeyError: 'a'\n\n"
    assert fault(1, trace) == Outcome("traceback", "KeyError: 'a'")
    assert fault(1, "") == Outcome("traceback", "exit code 1")


def test_tensors_are_counted_by_origin() -> None:
    assert count(TENSORS) == "2 tensors generated, 1 copied, 1 tied"


def test_outcomes_of_folders(tmp_path: Path) -> None:
    says = "read 3 checkpoints: 2 tensors generated, 1 copied, 1 tied"
    read = outcome(write_run(tmp_path / "a", 0, "zoo: 1 of 1\n", (90.0, 89.0)), 90.0, 3)
    assert read == Outcome("right", says, 90.0, 89.0, FOUND, TRIP)
    assert str(read) == "right, 90.0 → 89.0"
    warned = outcome(write_run(tmp_path / "b", 0, f"{WARNING}\n{WARNING}\n", (90.0, 20.0)), 90.0, 3)
    assert warned == Outcome("warned", f"{says}; {WARNING}", 90.0, 20.0, FOUND, TRIP)
    refused = outcome(write_run(tmp_path / "c", 2, "rpg: error: no\n"), 90.0, 3)
    assert str(refused) == "refused"
    # A save was not read.
    assert outcome(tmp_path / "a", 90.0, 4).verdict == "wrong"


def test_fixed_and_tied_tensors_of_samples() -> None:
    """A mask per run, and two names of one matrix."""
    ones, eye = torch.ones(2, 2), torch.eye(2)
    zoo = [{"mask": mask, "a": x * ones, "b": x * ones} for x, mask in enumerate((ones, ones, eye, eye))]
    assert changed(zoo, [{"mask": eye, "a": 9 * ones, "b": 9 * ones}]) == []
    assert changed(zoo, [{"mask": eye + 1e-6, "a": ones, "b": ones}]) == ["mask"]
    assert changed(zoo, [{"mask": ones, "a": ones, "b": eye}]) == ["b"]
    # A weight that a run does not change is no mask.
    still = [{"a": float(run) * ones + 2, "b": x * eye} for x, run in enumerate((0, 0, 1, 1))]
    assert changed(still, [{"a": 2.5 * ones, "b": eye}]) == []
    # With one checkpoint per run, any tensor has few values.
    assert changed(zoo[::2], [{"mask": eye / 2, "a": ones, "b": ones}]) == []


def test_rows_and_their_counts() -> None:
    right = Outcome("right", "read 6", 90.0, 89.96, FOUND, TRIP)
    assert row(CASE, 90.04, right) == {
        "case": "plain",
        "written by": "torch",
        "found": FOUND,
        "round trip": TRIP,
        "trained": "90.0",
        "verdict": "right, 90.0 → 90.0",
        "RPG's words": "read 6",
    }
    assert counts([CASE], {"plain": right}) == "1 of 1 as they should be"
    assert counts([CASE], {"plain": replace(right, verdict="wrong")}) == "0 of 1 as they should be"


def test_what_init_says() -> None:
    assert said(SAID) == (FOUND, TRIP)
    assert said("") == ("", "")


def test_request_of_a_case(tmp_path: Path) -> None:
    """`rpg init` finds its preset in params.yaml, and no experiment of the case's name."""
    write_request(tmp_path, ["--checkpoints", "zoo/*"], {"canonical": True})
    assert json.loads((tmp_path / REQUEST).read_text()) == {
        "arguments": ["--checkpoints", "zoo/*"],
        "tokens": {"canonical": True},
    }
    assert list(load_params(tmp_path / "params.yaml").experiments) == ["own-zoo"]


def test_networks_that_the_product_did_not_score(tmp_path: Path) -> None:
    """A state dict, and one tensor of all weights, give the score of the user's own function."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.Linear(2, 2)\n"
        "def score(network, split):\n"
        "    answers = network(torch.eye(2)).argmax(1)\n    return answers, torch.tensor([0, 1])\n"
    )
    right = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    half = {"weights": torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])}
    assert mean_score(tmp_path, [right]) == 100.0
    assert mean_score(tmp_path, [right, half]) == 75.0


def test_a_refusal_needs_the_right_reason() -> None:
    case = replace(CASE, right="list its folders")
    good, bad = Outcome("refused", "no checkpoint; list its folders"), Outcome("refused", "no checkpoint")
    assert case.judged(good) == good
    assert case.judged(bad) == Outcome("misled", "no checkpoint")
    assert case.verdict == "refused"
    # A zoo that RPG must read.
    assert CASE.judged(bad).verdict == "refused"
    assert CASE.verdict == "right"


def test_cases_are_grouped_by_libraries() -> None:
    cases = [CASES[name] for name in ("plain", "LoRA", "Trainer", "LoRA on an embedding", "pruning")]
    groups = {libraries: [case.name for case in of_group] for libraries, of_group in grouped(cases).items()}
    assert groups == {
        (): ["plain", "pruning"],
        ("peft",): ["LoRA"],
        ("transformers",): ["Trainer"],
        ("peft", "transformers"): ["LoRA on an embedding"],
    }


def test_a_run_has_its_saves_at_the_end() -> None:
    saves = {step: save for step in range(1, STEPS + 1) if (save := save_after(step))}
    assert list(saves.values()) == list(range(1, SAVES + 1))
    assert list(saves) == [STEPS - 2 * EVERY, STEPS - EVERY, STEPS]


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_every_case_has_a_module_and_a_verdict(case: Case) -> None:
    assert case.right
    for source in filter(None, (case.mine, case.trained)):
        names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert {"points", "logits", "build", "score"} <= names
