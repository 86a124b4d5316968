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

from rpg.params import CommonsenseTask, Experiment, Params
from rpg.paths import RESULTS, Paths, ablation_file
from rpg.workflow import CHOICES, MODEL, OPTIONAL, code, extras
from rpg.workflow import TOKENS as TOKENS_FILES

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
TOKENS = tuple(ITEM.tokens / name for name in TOKENS_FILES)
_, LAYOUT, STATS = TOKENS


def _model(layer: str, folder: Path) -> tuple[Path, ...]:
    """What a layer that trains a model writes."""
    return (*(folder / name for name in (*MODEL, "log.csv")), ITEM.seconds(layer))


# In git, not in DVC's cache: small, and read without either.
IN_GIT = {"cache": False}
STAGES = {
    "base": Stage(
        "train the network that the zoo's runs start from",
        rules=("base",),
        target=ITEM.base / "manifest.json",
        reads=(),
        writes=(ITEM.base,),
    ),
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
        target=TOKENS[0],
        reads=(ITEM.zoo,),
        writes=TOKENS,
    ),
    "train": Stage(
        "train RPG on the tokens",
        rules=("train",),
        target=ITEM.rpg / "model.safetensors",
        reads=TOKENS,
        writes=_model("train", ITEM.rpg),
    ),
    "tune": Stage(
        "fine-tune RPG on the task loss",
        rules=("tune",),
        target=ITEM.tune / "model.safetensors",
        reads=(*TOKENS, *(ITEM.rpg / name for name in MODEL)),
        writes=_model("tune", ITEM.tune),
    ),
    "hypernetwork": Stage(
        "train a hypernetwork on the task loss alone",
        rules=("hypernetwork",),
        target=ITEM.hypernetwork / "model.safetensors",
        reads=TOKENS,
        writes=_model("hypernetwork", ITEM.hypernetwork),
    ),
    "sample": Stage(
        "sample new networks",
        rules=("sample",),
        target=ITEM.samples / "manifest.json",
        reads=(LAYOUT, STATS, *(ITEM.rpg / name for name in MODEL)),
        writes=(ITEM.samples, ITEM.seconds("sample")),
    ),
    "score": Stage(
        "score originals and samples",
        rules=("score",),
        target=ITEM.scores,
        reads=(ITEM.zoo, ITEM.samples),
        writes=(ITEM.scores, ITEM.answers),
        metrics=(ITEM.metrics,),
    ),
    "novelty": Stage(
        "tell whether the samples are new",
        rules=("novelty",),
        target=ITEM.novelty,
        reads=(ITEM.zoo, *TOKENS, ITEM.samples, ITEM.scores, ITEM.answers),
        writes=(ITEM.novelty, ITEM.novelty_rows),
    ),
}


def covered(params: Params) -> list[str]:
    """The experiments that dvc.yaml has stages of: those in `run:`, and those that ablations in `run:` are of."""
    of = [params.ablation(name).experiment for name in params.ablations_to_run()]
    return list(dict.fromkeys([*params.experiments_to_run(), *of]))


def lenders(params: Params) -> list[str]:
    """The experiments whose base network, a language model, others use that dvc.yaml covers, without being covered."""
    owners = (
        Path(task.model).parts[1]
        for name in covered(params)
        if isinstance(task := params.experiment(name).task, CommonsenseTask)
        and Path(task.model).is_relative_to(RESULTS)
    )
    return [name for name in dict.fromkeys(owners) if name not in covered(params)]


def stage_names(params: Params, experiment: str) -> dict[str, str]:
    """Layer → stage of an experiment, as dvc.yaml names it: `zoo@digits-vit`; of an ablation, its only one.

    Where an experiment reads more than others, of layers that those lack, its stage is one of its own, named after
    what it reads: `sample-tune-hypernetwork@digits-tasks`.
    """
    if experiment in params.ablations:
        return {"ablation": f"ablation-{experiment}"}
    chosen = params.experiment(experiment)
    names = {}
    for layer, stage in STAGES.items():
        if layer not in OPTIONAL or getattr(chosen, layer):
            more = dict.fromkeys(why for rule in stage.rules for why in extras(rule, chosen, ITEM))
            names[layer] = "-".join([layer, *(why.replace("_", "-") for why in more)]) + f"@{experiment}"
    return names


def _stage(stage: Stage, experiment: Experiment) -> dict[str, Any]:
    """The stage as dvc.yaml has it for experiments with the same layers as `experiment`."""
    more = {_out(path) for rule in stage.rules for paths in extras(rule, experiment, ITEM).values() for path in paths}
    command = ["snakemake --cores all --allowed-rules", *stage.rules, *stage.options, "--", str(stage.target)]
    return {
        "desc": stage.desc,
        "cmd": " ".join(command),
        "params": [f"experiments.{ITEM.experiment}.{key}" for key in _union(CHOICES[rule] for rule in stage.rules)],
        "deps": [*map(str, stage.reads), *sorted(more), *_union(code(rule) for rule in stage.rules)],
        "outs": [{str(path): {"persist": True}} if stage.persist else str(path) for path in stage.writes],
        # A stage with an uncached out that is not called a metric never enters the run-cache.
        **({"metrics": [{str(path): IN_GIT} for path in stage.metrics]} if stage.metrics else {}),
    }


def _ablation(params: Params, name: str) -> dict[str, Any]:
    """The stage of an ablation: all of its trials at once, which take from the experiment what they share with it."""
    of = params.ablation(name).experiment
    rules = [rule for layer in stage_names(params, of) for rule in STAGES[layer].rules]
    rules += [layer for layer in OPTIONAL if layer not in rules]
    made = [path for layer in stage_names(params, of) for path in (*STAGES[layer].writes, *STAGES[layer].metrics)]
    target = ablation_file(name)
    return {
        "desc": "train and compare the variants",
        "cmd": " ".join(["snakemake --cores all --allowed-rules", *rules, "ablation", "--", str(target)]),
        "params": [f"ablations.{name}", f"experiments.{of}"],
        "deps": [
            *(str(path).replace(ITEM.experiment, of) for path in made),
            *_union(code(rule) for rule in [*rules, "ablation"]),
        ],
        "outs": [str(target.parent)],
    }


def _out(path: Path) -> str:
    """The out that `path` is or lies in, if any: dvc.lock has its hash, and in a fresh clone nothing else does."""
    _, experiment, *rest = (*path.parts, "")
    ours = Path(RESULTS, ITEM.experiment, *rest)
    found = (out for stage in STAGES.values() for out in stage.writes if ours.is_relative_to(out))
    return str(next(found, path)).replace(ITEM.experiment, experiment) if path.is_relative_to(RESULTS) else str(path)


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return sorted({entry for some in lists for entry in some})


def dvc_yaml(params: Params) -> str:
    """The text of dvc.yaml for `params`."""
    run = [Paths(name) for name in params.experiments_to_run()]
    tables = ("tables.md", "metrics.json", "scores.csv", "novelty.csv", "seconds.json", "seconds.md")
    read = [
        path
        for paths in run
        for path in (
            paths.scores,
            paths.metrics,
            paths.novelty,
            paths.novelty_rows,
            *map(paths.seconds, params.experiment(paths.experiment).timed()),
        )
    ]
    stages: dict[str, Any] = {}
    for layer, stage in STAGES.items():
        for experiment in [*covered(params), *(lenders(params) if layer == "base" else [])]:
            name, _, item = stage_names(params, experiment).get(layer, "").partition("@")
            if name in stages:
                stages[name]["foreach"].append(item)
            elif name:
                stages[name] = {"foreach": [item], "do": _stage(stage, params.experiment(item))}
    for name in params.ablations_to_run():
        stages[stage_names(params, name)["ablation"]] = _ablation(params, name)
        read.append(RESULTS / name)
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
        "outs": [
            {str(path): {**IN_GIT, "persist": True}}
            for path in (*(RESULTS / name for name in tables), *(paths.card for paths in run))
        ],
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
                    "title": "Scores of originals and of RPG's samples",
                }
            },
            {
                "novelty": {
                    "x": {str(RESULTS / "novelty.csv"): "distance"},
                    "y": {str(RESULTS / "novelty.csv"): "test"},
                    "template": "workflow/report/novelty.json",
                    "title": "Accuracy of networks beside their distance from the zoo",
                }
            },
        ],
    }
    # Through JSON, so that blocks used twice are written out twice.
    return HEADER + yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False, width=120)
