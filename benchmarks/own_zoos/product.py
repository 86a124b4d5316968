"""Give a case's folder to the product, in a process of its own, and read what it says and makes."""

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.common import ROOT

NAME = "own"
# What `rpg init` gets in a folder, and keys of the experiment to change afterwards.
REQUEST = "request.json"
# Runs `rpg init` and the stages in each folder, in a process of its own. The processes are forks of one that has
# imported torch, the product and the libraries of the arguments, which takes longer than the stages.
PROGRAM = f"""
import importlib, json, os, sys, traceback
import sklearn.datasets, torch, yaml
import rpg.evaluation.score, rpg.generator.sample, rpg.init.command, rpg.tokenizer.tokens, rpg.training.train
from rpg.cli import main

libraries, folders = (argument.split(os.pathsep) for argument in sys.argv[1:])
for library in filter(None, libraries):
    importlib.import_module(library)
for folder in folders:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    code = 1
    try:
        os.chdir(folder)
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        request = json.load(open("{REQUEST}"))
        main(["init", "{NAME}", *request["arguments"]])
        tree = yaml.safe_load(open("params.yaml"))
        tree["experiments"]["{NAME}"]["tokens"].update(request["tokens"])
        yaml.safe_dump(tree, open("params.yaml", "w"))
        for stage in ("zoo", "collect", "tokens", "train", "sample", "score"):
            main([stage, "--experiment", "{NAME}"])
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        open("code", "w").write(str(code))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
"""
# Samples below this share of the originals' score, or originals this many points off, count as wrong.
SHARE, POINTS = 0.97, 1.0
# A part of the product's warning about a zoo.
WARNING = "list each in zoo.runs"
# Runs of a zoo.
RUNS = 2
# The presets of the product's params.yaml on which `rpg init` builds, and an experiment that stands there before.
PRESETS, EXAMPLE = ("mamba-mlp", "any-zoo"), "own-zoo"


@dataclass(frozen=True)
class Outcome:
    """What the product makes of a zoo: its verdict, what it says in one line, and percentages on the test split.

    `verdict` is "right", "wrong", "warned", "refused", "misled" (refused for a wrong reason) or "traceback". `found` is
    what `rpg init` says of the writer and the runs, `trip` the greatest change of a weight on the way through the
    tokens, and the score before and after.
    """

    verdict: str
    says: str
    originals: float | None = None
    samples: float | None = None
    found: str = ""
    trip: str = ""

    def __str__(self) -> str:
        if self.originals is None or self.samples is None:
            return self.verdict
        return f"{self.verdict}, {self.originals:.1f} → {self.samples:.1f}"


def write_request(folder: Path, arguments: Sequence[str], tokens: Mapping[str, Any]) -> None:
    """Write params.yaml without an experiment for the zoo, and the request for it."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree |= {"ablations": {}, "joint": {}, "run": [EXAMPLE], "experiments": {EXAMPLE: tree["experiments"][EXAMPLE]}}
    tree["presets"] = {name: tree["presets"][name] for name in PRESETS}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    (folder / REQUEST).write_text(json.dumps({"arguments": list(arguments), "tokens": dict(tokens)}))


def run_product(folders: Sequence[Path], libraries: Sequence[str] = ()) -> None:
    """Run the product in each folder; it writes the files out, err and code there.

    `libraries` are imported once for all folders.
    """
    arguments = [os.pathsep.join(libraries), os.pathsep.join(map(str, folders))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments], cwd=folders[0], env=environment, check=True
    )


def outcome(folder: Path, trained: float, saves: int) -> Outcome:
    """Return the outcome of a run in a folder; `trained` is the score of its `saves` by the tool that made the zoo."""
    code, errors = int((folder / "code").read_text()), (folder / "err").read_text()
    if code:
        return fault(code, errors)
    results = folder / "results" / NAME
    test = json.loads((results / "test.json").read_text())
    zoo, drawn = (networks(results / stage) for stage in ("zoo", "samples"))
    if test["metric"] == "distance":
        # Nobody told the product how to score a network.
        originals, samples = (mean_score(folder, state_dicts) for state_dicts in (zoo, drawn))
    else:
        originals, samples = test["original"]["mean"], test["rpg"]["mean"]
    lost = changed(zoo, drawn)
    found = "wrong" if lost or len(zoo) != saves else verdict(trained, originals, samples)
    says = [f"read {len(zoo)} checkpoints: {summary(results)}", *(f"lost: {name}" for name in lost[:1])]
    warnings = dict.fromkeys(line for line in errors.splitlines() if WARNING in line)
    told = said((folder / "out").read_text())
    return Outcome("warned" if warnings else found, "; ".join([*says, *warnings]), originals, samples, *told)


def said(lines: str) -> tuple[str, str]:
    """Return what `rpg init` says of the writer and the runs of a zoo, and, in short, of the way through the tokens."""
    by_key: dict[str, list[str]] = {}
    for line in lines.splitlines():
        key, _, rest = line.partition(": ")
        by_key.setdefault(key, []).append(rest)
    found = [*by_key.get("written by", []), *(line.partition("; ")[0] for line in by_key.get("found", []))]
    trips = by_key.get("round trip", [])
    changes = [change[1] for line in trips if (change := re.search(r"at most (\S+)", line))]
    scores = [f"{score[1]} → {score[2]}" for line in trips if (score := re.search(r"(\S+) before, (\S+) after", line))]
    return "; ".join([*found, *by_key.get("read", [])]), ", ".join([*changes, *scores])


def networks(folder: Path) -> list[dict[str, Tensor]]:
    """Return all networks below a folder."""
    return [load_file(path) for path in sorted(folder.rglob("*.safetensors"))]


def mean_score(folder: Path, state_dicts: Sequence[Mapping[str, Tensor]]) -> float:
    """Return the mean accuracy in percent by the user's own functions, which the product was not given."""
    mine: dict[str, Any] = {}
    exec((folder / "mine.py").read_text(), mine)
    network, scores = mine["build"](), []
    for state_dict in state_dicts:
        parameters = dict(network.named_parameters())
        if len(state_dict) == 1 < len(parameters):
            torch.nn.utils.vector_to_parameters(next(iter(state_dict.values())), network.parameters())
        else:
            network.load_state_dict(state_dict)
        with torch.no_grad():
            answers, targets = mine["score"](network.eval(), "test")
        scores.append(100 * float((answers == targets).double().mean()))
    return statistics.mean(scores)


def changed(zoo: Sequence[Mapping[str, Tensor]], samples: Sequence[Mapping[str, Tensor]]) -> list[str]:
    """Return the tensors that are fixed in the zoo but not in the samples, and tied ones that differ in the samples.

    A tensor that is equal in all checkpoints, or a mask of zeros and ones that takes one value per run, is fixed. Two
    matrices that are equal to each other in each checkpoint are tied.
    """
    values = {name: [checkpoint[name] for checkpoint in zoo] for name in zoo[0]}
    distinct = {name: list({x.numpy().tobytes(): x for x in tensors}.values()) for name, tensors in values.items()}
    few = [
        name
        for name, tensors in distinct.items()
        if len(zoo) > RUNS and (len(tensors) == 1 or (len(tensors) <= RUNS and all(map(is_mask, tensors))))
    ]
    lost = [
        name for name in few if not all(any(torch.equal(sample[name], x) for x in distinct[name]) for sample in samples)
    ]
    matrices = [name for name in zoo[0] if zoo[0][name].ndim > 1 and name not in few]
    for one, other in combinations(matrices, 2):
        tied = all(torch.equal(checkpoint[one], checkpoint[other]) for checkpoint in zoo)
        if tied and not all(torch.equal(sample[one], sample[other]) for sample in samples):
            lost.append(other)
    return lost


def is_mask(tensor: Tensor) -> bool:
    """Return whether a tensor holds zeros and ones alone."""
    return bool(((tensor == 0) | (tensor == 1)).all())


def fault(code: int, errors: str) -> Outcome:
    """Return the outcome of a failed run, from its exit code and standard error; code 2 is a refusal."""
    lines = [line for line in errors.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    return Outcome("refused" if code == 2 else "traceback", last.removeprefix("rpg: error: "))


def verdict(trained: float, originals: float, samples: float) -> str:
    """Return "right" if originals score as their tool measured, and samples about as high; otherwise "wrong"."""
    return "right" if abs(originals - trained) <= POINTS and samples >= SHARE * originals else "wrong"


def summary(results: Path) -> str:
    """Return the numbers of tensors by origin, from the layout of an experiment's tokens."""
    return count(json.loads((results / "tokens/layout.json").read_text())["layout"]["tensors"])


def count(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Return the numbers of tensors that are generated, tied to another one, and copied."""
    generated = sum(tensor["tokens"] > 0 for tensor in tensors)
    tied = sum(tensor.get("tied_to") is not None for tensor in tensors)
    return f"{generated} tensors generated, {len(tensors) - generated - tied} copied, {tied} tied"
