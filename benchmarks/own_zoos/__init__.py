"""Give zoos to the product as libraries write them: `python -m benchmarks own-zoos`.

Each case trains two runs of a tiny network with three saves each, writes them as its library does, and runs `rpg init`
and the stages of the product on them. `trained` is the score that the zoo's own tool measures; originals and samples
are scored by the product.
"""

import re
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report
from benchmarks.own_zoos.cases import CASES, Case
from benchmarks.own_zoos.product import Outcome, outcome, run_product, write_request
from benchmarks.own_zoos.zoo import Zoo


def measure_own_zoos(names: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Print and write a row per case: what the product makes of the zoo."""
    torch.set_num_threads(1)
    cases = [CASES[name] for name in names or CASES]
    outcomes = {}
    with tempfile.TemporaryDirectory() as made:
        folders = {case.name: Path(made, str(number)) for number, case in enumerate(cases)}
        trained = {}
        for case in cases:
            print(f"{case.name}: train the zoo", flush=True)
            trained[case.name] = write_zoo(case, folders[case.name])
        for libraries, of_libraries in grouped(cases).items():
            print(f"{len(of_libraries)} zoos", flush=True)
            run_product([folders[case.name] for case in of_libraries], libraries)
            for case in of_libraries:
                outcomes[case.name] = case.judged(outcome(folders[case.name], *trained[case.name]))
    rows = [row(case, trained[case.name][0], outcomes[case.name]) for case in cases]
    print(counts(cases, outcomes))
    return report(rows, out, outcomes={name: asdict(found) for name, found in outcomes.items()})


def grouped(cases: Sequence[Case]) -> dict[tuple[str, ...], list[Case]]:
    """Return the cases by the libraries that their modules import and that take seconds to import."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        libraries = tuple(
            name for name in ("peft", "transformers") if re.search(rf"^(from|import) {name}\b", case.mine, re.M)
        )
        groups.setdefault(libraries, []).append(case)
    return groups


def write_zoo(case: Case, folder: Path) -> tuple[float, int]:
    """Write the zoo, the user's module and the request; return the mean score of the saves, and their number."""
    folder.mkdir()
    mine: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(case.trained or case.mine, mine)
        zoo = Zoo(folder, mine)
        zoo.prepare()
        case.writer(zoo)
    (folder / "mine.py").write_text(case.mine)
    functions = [part for name in case.given for part in (f"--{name}", f"mine:{name}")]
    metric = ["--metric", "accuracy"] if "score" in case.given else []
    patterns = [part for pattern in case.checkpoints for part in ("--checkpoints", pattern)]
    write_request(folder, [*patterns, *functions, *metric, *case.arguments], case.tokens)
    return statistics.mean(zoo.scores), len(zoo.scores)


def row(case: Case, trained: float, found: Outcome) -> dict[str, Any]:
    """Return the row of a case."""
    return {
        "case": case.name,
        "written by": case.by,
        "found": found.found,
        "round trip": found.trip,
        "trained": f"{trained:.1f}",
        "verdict": str(found),
        "RPG's words": found.says,
    }


def counts(cases: Sequence[Case], outcomes: dict[str, Outcome]) -> str:
    """Return in how many cases the verdict is the one that is right."""
    right = [outcomes[case.name].verdict == case.verdict for case in cases]
    return f"{sum(right)} of {len(right)} as they should be"
