"""Give zoos to the product as libraries write them: `python -m benchmarks own-zoos`.

Each case trains two runs of a tiny network with three saves each, writes them as its library does, and runs the stages
of the product on them. `trained` is the score that the zoo's own tool measures; originals and samples are scored by the
product.
"""

import re
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import ROOT, report
from benchmarks.own_zoos.cases import CASES, Case
from benchmarks.own_zoos.product import Outcome, outcome, run_product, write_params
from benchmarks.own_zoos.zoo import Zoo


def measure_own_zoos(names: Sequence[str], against: Path | None, out: Path) -> list[dict[str, Any]]:
    """Print and write a row per case: what the product makes of the zoo, here and, if given, in checkout `against`."""
    torch.set_num_threads(1)
    cases = [CASES[name] for name in names or CASES]
    checkouts = {"before": against.resolve(), "now": ROOT} if against else {"now": ROOT}
    with tempfile.TemporaryDirectory() as made:
        folders = {case.name: Path(made, str(number)) for number, case in enumerate(cases)}
        trained = {}
        for case in cases:
            print(f"{case.name}: train the zoo", flush=True)
            trained[case.name] = write_zoo(case, folders[case.name])
        outcomes: dict[str, dict[str, Outcome]] = {case.name: {} for case in cases}
        for when, checkout in checkouts.items():
            for libraries, of_libraries in grouped(cases).items():
                print(f"{when}: {len(of_libraries)} zoos", flush=True)
                own = {case.name: copied(folders[case.name], when) for case in of_libraries}
                run_product(list(own.values()), checkout, libraries)
                for name, folder in own.items():
                    outcomes[name][when] = CASES[name].judged(outcome(folder, *trained[name]))
    rows = [row(case, trained[case.name][0], outcomes[case.name]) for case in cases]
    details = {name: {when: asdict(found) for when, found in of_case.items()} for name, of_case in outcomes.items()}
    print(counts(cases, outcomes))
    return report(rows, out, outcomes=details)


def grouped(cases: Sequence[Case]) -> dict[tuple[str, ...], list[Case]]:
    """Return the cases by the libraries that their modules import and that take seconds to import."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        libraries = tuple(
            name for name in ("peft", "transformers") if re.search(rf"^(from|import) {name}\b", case.mine, re.M)
        )
        groups.setdefault(libraries, []).append(case)
    return groups


def copied(folder: Path, when: str) -> Path:
    """Return a copy of a case's folder for one checkout of the product."""
    return Path(shutil.copytree(folder, folder.with_name(f"{folder.name}-{when}")))


def write_zoo(case: Case, folder: Path) -> tuple[float, int]:
    """Write the zoo, the user's module and params.yaml; return the mean score of the saves, and their number."""
    folder.mkdir()
    mine: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(case.trained or case.mine, mine)
        zoo = Zoo(folder, mine)
        zoo.prepare()
        case.writer(zoo)
    (folder / "mine.py").write_text(case.mine)
    write_params(folder, case.params)
    return statistics.mean(zoo.scores), len(zoo.scores)


def row(case: Case, trained: float, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Return the row of a case: the outcome of each checkout, and its words."""
    facts = {"case": case.name, "written by": case.by, "trained": f"{trained:.1f}"}
    for when, found in outcomes.items():
        facts |= {when: str(found), f"RPG's words {when}": found.says}
    return facts


def counts(cases: Sequence[Case], outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Return, for each checkout, in how many cases its verdict is the one that is right."""
    verdicts: dict[str, list[bool]] = {}
    for case in cases:
        for when, found in outcomes[case.name].items():
            verdicts.setdefault(when, []).append(found.verdict == case.verdict)
    return ", ".join(f"{when}: {sum(right)} of {len(right)} as they should be" for when, right in verdicts.items())
