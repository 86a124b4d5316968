"""Measure the samples' quality over training seeds and arithmetics: `python -m benchmarks robustness`.

Each arithmetic has its own checkout, which trains base networks and zoos. From these zoos, each seed trains RPG, its
tuning and its hypernetwork once. Other base networks, and zoos of their own, then show the luck of the base networks.
The bounds in rpg/reports/promises.py come from this table.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common import ROOT, copy_workflow, report
from rpg.config.loading import load_params
from rpg.config.presets import resolve
from rpg.reports.promises import quality
from rpg.utils.device import has_bfloat16

# Environment variables that limit numerical libraries to an older processor's instructions. oneDNN and MKL read them at
# start; OpenBLAS belongs to numpy.
ARITHMETICS: dict[str, dict[str, str]] = {
    # This machine's own instructions.
    "native": {},
    # Without AVX-512, and so without bfloat16 (`has_bfloat16`): a common laptop, and AMD's Zen 2 and Zen 3.
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    # SSE4 alone: the second arithmetic of a machine that has nothing beyond AVX2.
    "sse": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}


def measure_robustness(
    names: Sequence[str],
    seeds: Sequence[int],
    bases: Sequence[int],
    arithmetics: Sequence[str],
    changes: Path | None,
    folder: Path,
    out: Path,
) -> list[dict[str, Any]]:
    """Print and write each measure of `quality`: one row per experiment, measure and arithmetic.

    `seeds` are RPG's training seeds, with the experiment's base networks. `bases` are numbers of other sets of base
    networks, each with RPG's usual seed.
    """
    names = names or load_params().run
    rows = []
    for arithmetic in arithmetics:
        checkout = folder / arithmetic
        write_checkout(checkout, names, seeds, bases, changes)
        files = {name: metrics_files(checkout, name, seeds, bases) for name in names}
        targets = [str(path.relative_to(checkout)) for of_name in files.values() for path in of_name.values()]
        subprocess.run(
            ["snakemake", "--cores", "all", "--quiet", "rules", "progress", "--", *targets],
            cwd=checkout,
            env={**os.environ, **ARITHMETICS[arithmetic], "PYTHONPATH": str(checkout)},
            check=True,
        )
        rows += [row for name in names for row in rows_of(name, files[name], arithmetic)]
    return report(rows, out, seeds=list(seeds), bases=list(bases), bfloat16=has_bfloat16(torch.device("cpu")))


def write_checkout(
    checkout: Path, names: Sequence[str], seeds: Sequence[int], bases: Sequence[int], changes: Path | None
) -> None:
    """Write the workflow with one ablation per experiment and seed, and one experiment per set of base networks.

    Existing results stay.
    """
    copy_workflow(checkout)
    tree = resolve(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
    if changes:
        apply_changes(tree, yaml.safe_load(changes.read_text()))
    tree["run"] = list(names)
    tree["ablations"] = {
        trial_of(name, seed).partition("/")[0]: {
            "question": "",
            "experiment": name,
            "seeds": [seed],
            "novelty": False,
            "variants": {"plain": {}},
        }
        for name in names
        for seed in seeds
        if seed != tree["experiments"][name]["train"]["seed"]
    }
    for number in bases:
        add_bases(tree["experiments"], number)
    (checkout / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def add_bases(experiments: dict[str, Any], number: int) -> None:
    """Add a copy of each experiment that starts from base networks, with set `number` of them; set 0 is its own."""
    copies = {}
    for name, experiment in experiments.items():
        copy = deepcopy(experiment)
        if base := copy.get("base"):
            base["seeds"] = [seed + number * len(base["seeds"]) for seed in base["seeds"]]
        # A language model's folder ends with its seed.
        folder = str(copy["task"].get("model", ""))
        if own := re.fullmatch(r"results/(.+)/base/(\d+)", folder):
            maker, seed = own[1], int(own[2]) + number
            copy["task"]["model"] = f"results/{with_bases(maker, number)}/base/{seed:04d}"
        if base or own:
            copies[with_bases(name, number)] = copy
    experiments |= copies


def apply_changes(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Apply `changes`, {experiment: {block.key: value}}, to the tree of params.yaml; null removes a block.

    Raises KeyError for an unknown key.
    """
    for name, keys in changes.items():
        for dotted, value in keys.items():
            *blocks, last = dotted.split(".")
            node = tree["experiments"][name]
            for block in blocks:
                node = node[block]
            if last not in node:
                raise KeyError(f"{name}.{dotted}")
            if value is None:
                del node[last]
            else:
                node[last] = value


def trial_of(name: str, seed: int) -> str:
    """Return the folder below results/ of a training whose seed differs from the experiment's."""
    return f"{name}-seed-{seed}/plain-{seed}"


def with_bases(name: str, number: int) -> str:
    """Return the name of an experiment with other base networks."""
    return f"{name}-bases-{number}"


def metrics_files(checkout: Path, name: str, seeds: Sequence[int], bases: Sequence[int]) -> dict[str, Path]:
    """Return the paths of the experiment's test.json files: "seed 0" → path, and "bases 1" → path."""
    experiments = yaml.safe_load((checkout / "params.yaml").read_text())["experiments"]
    own = experiments[name]["train"]["seed"]
    folders = {f"seed {seed}": name if seed == own else trial_of(name, seed) for seed in seeds}
    folders |= {
        f"bases {number}": with_bases(name, number) for number in bases if with_bases(name, number) in experiments
    }
    return {label: checkout / "results" / folder / "test.json" for label, folder in folders.items()}


def rows_of(name: str, files: Mapping[str, Path], arithmetic: str) -> list[dict[str, Any]]:
    """Return a row per measure of an experiment: the value in each of `files`, and the worst."""
    qualities = {label: quality(json.loads(path.read_text())) for label, path in files.items()}
    return [
        {
            "experiment": name,
            "measure": measure,
            "arithmetic": arithmetic,
            **{label: values[measure] for label, values in qualities.items()},
            "worst": min(values[measure] for values in qualities.values()),
        }
        for measure in next(iter(qualities.values()))
    ]
