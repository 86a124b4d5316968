"""Samples' quality over training seeds and over processors' rounding: `python -m benchmarks robustness`.

Each arithmetic has a checkout of its own, in which base networks and zoos are trained once. RPG, its tuning and its
hypernetwork are trained from each of these zoos once per seed. The bounds in tests/promises.py come from this table.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common import ROOT, copy_workflow, report
from rpg.config.loading import load_params
from rpg.config.presets import resolve
from rpg.utils.device import has_bfloat16

# Environment under which the numerical libraries choose the instructions of an older processor. oneDNN and MKL take
# them from here when they start; OpenBLAS is numpy's.
ARITHMETICS: dict[str, dict[str, str]] = {
    # As this machine computes by itself.
    "native": {},
    # Without AVX-512 and without bfloat16 units: a common laptop, and AMD's Zen 2 and Zen 3.
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
# Sets of samples that metrics.json may hold.
SETS = ("rpg", "between", "seen", "held_out", "held_out_pairs")
# Metrics beside the main one that the paper's tables have; of the adapters the other protocol.
LIKELIHOOD = "average accuracy (likelihood)"
OTHERS = ("mAcc", "bbox AP50", "segm mAP", LIKELIHOOD)


def measure_robustness(
    names: Sequence[str],
    seeds: Sequence[int],
    arithmetics: Sequence[str],
    changes: Path | None,
    folder: Path,
    out: Path,
) -> list[dict[str, Any]]:
    """Print and write each measure of `quality`: a row per experiment, measure and arithmetic."""
    names = names or load_params().run
    rows = []
    for arithmetic in arithmetics:
        checkout = folder / arithmetic
        write_checkout(checkout, names, seeds, changes, rounded=arithmetic == "native")
        targets = [str(path.relative_to(checkout)) for path in metrics_files(checkout, names, seeds)]
        subprocess.run(
            ["snakemake", "--cores", "all", "--quiet", "rules", "progress", "--", *targets],
            cwd=checkout,
            env={**os.environ, **ARITHMETICS[arithmetic], "PYTHONPATH": str(checkout)},
            check=True,
        )
        rows += [row for name in names for row in rows_of(checkout, name, seeds, arithmetic)]
    return report(rows, out, seeds=list(seeds), bfloat16=has_bfloat16(torch.device("cpu")))


def write_checkout(
    checkout: Path, names: Sequence[str], seeds: Sequence[int], changes: Path | None, *, rounded: bool
) -> None:
    """Write the workflow with one ablation per experiment and seed; results that stand there already are kept.

    `rounded` says whether trainings use bfloat16 where the processor has units for it.
    """
    copy_workflow(checkout)
    tree = resolve(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
    if changes:
        apply_changes(tree, yaml.safe_load(changes.read_text()))
    if not rounded:
        for experiment in tree["experiments"].values():
            for block in experiment.values():
                if isinstance(block, dict) and block.get("precision") == "bfloat16":
                    block["precision"] = "float32"
    tree["run"] = list(names)
    tree["ablations"] = {
        trial_of(name, seed).partition("/")[0]: {
            "question": "",
            "experiment": name,
            "seeds": [seed],
            "novelty": False,
            "variants": {
                "plain": {
                    f"{block}.seed": seed
                    for block in ("tune", "hypernetwork")
                    if block in tree["experiments"][name] and seed != tree["experiments"][name][block]["seed"]
                }
            },
        }
        for name in names
        for seed in seeds
        if seed != tree["experiments"][name]["train"]["seed"]
    }
    (checkout / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def apply_changes(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put `changes`, {experiment: {block.key: value}}, into the tree of params.yaml; null takes a block away.

    KeyError for a key that it lacks.
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
    """What stands below results/ for the training of that seed where it is not the experiment's own."""
    return f"{name}-seed-{seed}/plain-{seed}"


def metrics_files(checkout: Path, names: Sequence[str], seeds: Sequence[int]) -> list[Path]:
    """metrics.json of each experiment and seed, in this order."""
    experiments = yaml.safe_load((checkout / "params.yaml").read_text())["experiments"]
    return [
        checkout
        / "results"
        / (name if seed == experiments[name]["train"]["seed"] else trial_of(name, seed))
        / "metrics.json"
        for name in names
        for seed in seeds
    ]


def rows_of(checkout: Path, name: str, seeds: Sequence[int], arithmetic: str) -> list[dict[str, Any]]:
    """A row per measure of an experiment: its value for each seed, and the worst."""
    found = [quality(json.loads(path.read_text())) for path in metrics_files(checkout, [name], seeds)]
    return [
        {
            "experiment": name,
            "measure": measure,
            "arithmetic": arithmetic,
            **{f"seed {seed}": values[measure] for seed, values in zip(seeds, found, strict=True)},
            "worst": min(values[measure] for values in found),
        }
        for measure in found[0]
    ]


def quality(entry: Mapping[str, Any]) -> dict[str, float]:
    """Measure → value, the more the better, of one experiment's entry in metrics.json.

    `originals` is their mean in percent. A set of samples (`rpg`, `between`, `seen`, ...) is the ratio of its mean to
    the mean of the originals for the same tasks, `rpg` to that of all originals; `rpg min` is the ratio of the worst
    sample. `A above B` is in points.
    """
    original = entry["original"]
    found = {"originals": original["mean"], "rpg min": entry["rpg"]["min"] / original["mean"]}
    for kind in SETS:
        if kind in entry:
            found[kind] = entry[kind]["mean"] / entry.get("original_by_set", {}).get(kind, original)["mean"]
            for rival, of in sorted(entry.get("baselines", {}).items()):
                if kind in of:
                    found[f"{kind} above {rival}"] = entry[kind]["mean"] - of[kind]["mean"]
    for metric, of in entry.get("others", {}).items():
        if metric in OTHERS:
            found[f"originals, {metric}"] = of["original"]["mean"]
            found[f"rpg, {metric}"] = of["rpg"]["mean"] / of["original"]["mean"]
    if "base_model" in entry:
        found["originals above base_model"] = original["mean"] - entry["base_model"]["mean"]
        likelihood = entry["others"][LIKELIHOOD]
        found[f"originals above base_model, {LIKELIHOOD}"] = (
            likelihood["original"]["mean"] - likelihood["base_model"]["mean"]
        )
    return found
