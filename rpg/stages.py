"""dvc.yaml, the ledger's table of contents: the rules as stages, one per layer and experiment.

A stage calls Snakemake for the rules of its layer; its deps, params and outs say what those rules read and write, so
`dvc status` and `snakemake --dry-run` agree on what is up to date.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rpg.params import Params
from rpg.paths import RESULTS, Paths
from rpg.workflow import CHOICES, code

TABLES = RESULTS / "tables.md"
HEADER = """\
# The ledger: one stage per layer and experiment, each of which calls Snakemake for that layer's rules.
# Written by `rpg ledger write` from params.yaml and the rules; a test compares it with both.
"""


@dataclass(frozen=True)
class Stage:
    """One layer in dvc.yaml: its rules, and what one experiment's jobs of them read and write together."""

    desc: str
    rules: tuple[str, ...]
    target: Path
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]
    metrics: tuple[Path, ...] = ()
    persist: bool = False
    options: tuple[str, ...] = ()


ITEM = Paths("${item}")
TOKENS, LAYOUT, STATS = (ITEM.tokens / name for name in ("tokens.safetensors", "layout.json", "stats.safetensors"))
MODEL, CONFIG, LOSS = (ITEM.rpg / name for name in ("model.safetensors", "config.json", "log.csv"))
# In git, not in DVC's cache: small, and read without either.
IN_GIT = {"cache": False}
STAGES = {
    "zoo": Stage(
        "train the source networks and list their checkpoints",
        rules=("zoo", "collect"),
        target=ITEM.zoo / "checkpoints.json",
        reads=(),
        # DVC would delete all shards for one more seed. So they stay, and collect runs each time, that none of them is
        # taken unchecked.
        writes=(ITEM.zoo,),
        persist=True,
        options=("--forcerun", "collect"),
    ),
    "tokens": Stage(
        "tokenise the checkpoints",
        rules=("tokens",),
        target=TOKENS,
        reads=(ITEM.zoo,),
        writes=(TOKENS, LAYOUT, STATS),
    ),
    "train": Stage(
        "train RPG on the tokens",
        rules=("train",),
        target=MODEL,
        reads=(TOKENS, LAYOUT, STATS),
        writes=(MODEL, CONFIG, LOSS, ITEM.seconds("train")),
    ),
    "sample": Stage(
        "sample new networks",
        rules=("sample",),
        target=ITEM.samples / "manifest.json",
        reads=(LAYOUT, STATS, MODEL, CONFIG),
        writes=(ITEM.samples, ITEM.seconds("sample")),
    ),
    "score": Stage(
        "score originals and samples",
        rules=("score",),
        target=ITEM.scores,
        reads=(ITEM.zoo, ITEM.samples),
        writes=(ITEM.scores,),
        metrics=(ITEM.metrics,),
    ),
}


def _stage(stage: Stage) -> dict[str, Any]:
    """The stage as dvc.yaml has it."""
    command = ["snakemake --cores all --allowed-rules", *stage.rules, *stage.options, "--", str(stage.target)]
    return {
        "desc": stage.desc,
        "cmd": " ".join(command),
        "params": [f"experiments.{ITEM.experiment}.{key}" for key in _union(CHOICES[rule] for rule in stage.rules)],
        "deps": [*map(str, stage.reads), *_union(code(rule) for rule in stage.rules)],
        "outs": [{str(path): {"persist": True}} if stage.persist else str(path) for path in stage.writes],
        # A stage with an uncached out that is not called a metric never enters the run-cache.
        **({"metrics": [{str(path): IN_GIT} for path in stage.metrics]} if stage.metrics else {}),
    }


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return sorted({entry for some in lists for entry in some})


def dvc_yaml(params: Params) -> str:
    """The text of dvc.yaml for `params`."""
    run = [Paths(name) for name in params.run]
    tables = ("tables.md", "metrics.json", "scores.csv", "seconds.json", "seconds.md")
    read = [
        path for paths in run for path in (paths.scores, paths.metrics, paths.seconds("train"), paths.seconds("sample"))
    ]
    stages: dict[str, Any] = {name: {"foreach": "${run}", "do": _stage(stage)} for name, stage in STAGES.items()}
    stages["tables"] = {
        "desc": "put the experiments in `run` beside each other",
        "cmd": [
            "python -m rpg ledger write --check",
            # The artifacts may come from the run-cache, behind Snakemake's back.
            "python -m rpg ledger adopt",
            f"snakemake --cores all --allowed-rules tables --forcerun tables -- {TABLES}",
        ],
        "params": ["run"],
        "deps": [*map(str, read), *code("tables")],
        # Persistent outs are never taken from the run-cache, so that the commands above end every `dvc repro`.
        "outs": [{str(RESULTS / name): {**IN_GIT, "persist": True}} for name in tables],
    }
    tree = {
        "stages": stages,
        "params": ["params.yaml"],
        "metrics": [str(paths.metrics) for paths in run],
        "plots": [
            {
                "loss": {
                    "x": "step",
                    "y": {str(paths.rpg / "log.csv"): "loss" for paths in run},
                    "template": "workflow/report/loss.json",
                    "title": "RPG training loss",
                }
            },
            {
                "accuracy": {
                    "x": "networks",
                    "y": {str(RESULTS / "scores.csv"): "test"},
                    "template": "workflow/report/accuracy.json",
                    "title": "Accuracy of originals and of RPG's samples",
                }
            },
        ],
    }
    # Through JSON, so that blocks used twice are written out twice.
    return HEADER + yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False, width=120)
