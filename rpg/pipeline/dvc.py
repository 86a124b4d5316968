"""dvc.yaml, the ledger's table of contents: the rules as stages, one per stage of the pipeline and experiment.

A stage of dvc.yaml calls Snakemake for its rules. Its deps, params and outs say what those rules read and write, so
`dvc status` and `snakemake --dry-run` agree on what is up to date. DVC tracks values in the resolved configurations,
results/<experiment>/config.yaml.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.paths import RESULTS, TABLES, Paths, ablation_file
from rpg.pipeline.workflow import code, more_reads, task_label
from rpg.stages import OPTIONAL, STAGES, SUMMARIES, TASK_CODES, Stage, covered_by

HEADER = """\
# The ledger: one stage per stage of the pipeline and experiment, each of which calls Snakemake for its rules.
# Written by `rpg ledger write` from params.yaml and rpg/stages.py; a test compares it with both.
"""
ITEM = Paths("${item}")
# Small files that live in git, not in DVC's cache.
IN_GIT = {"cache": False}
# What the tables' stage writes besides tables.md and the model cards, in DVC's cache: large, or different in every run.
CACHED = ("metrics.json", "scores.csv", "novelty.csv", "seconds.json", "seconds.md")


def covered(params: Params) -> list[str]:
    """The experiments that dvc.yaml has stages of: those in `run:`, and those of ablations in `run:`."""
    of = [params.ablation(name).experiment for name in params.ablations_to_run()]
    return list(dict.fromkeys([*params.experiments_to_run(), *of]))


def lenders(params: Params) -> list[str]:
    """The experiments that dvc.yaml does not cover, and whose base network others use that it covers."""
    owners = (params.experiment(name).task.borrowed_base() for name in covered(params))
    return [name for name in dict.fromkeys(owners) if name and name not in covered(params)]


def ledger_stages() -> Iterator[tuple[str, list[Stage]]]:
    """The stages of dvc.yaml for an experiment, first to last, and the stages of the pipeline that each runs."""
    for name in STAGES:
        if covered_by(name) == name:
            yield name, [stage for stage in STAGES.values() if covered_by(stage.name) == name]


def stage_names(params: Params, experiment: str) -> dict[str, str]:
    """Stage → its name in dvc.yaml: `tokens@digits-vit`; of an ablation, its only one.

    Where stages read different files, the name says so: the benchmark with its data set, optional stages, and files
    that the benchmark names: `sample-task-codes-digits-tune-hypernetwork@digits-tasks`.
    """
    if experiment in params.ablations:
        return {"ablation": f"ablation-{experiment}"}
    chosen = params.experiment(experiment)
    names = {}
    for name, stages in ledger_stages():
        if name in chosen.stages():
            more = [task_label(chosen.task)] if any(stage.task_code for stage in stages) else []
            # The label already says that there are task codes.
            more += [why for stage in stages for why in more_reads(stage.name, chosen, ITEM) if why != TASK_CODES]
            parts = dict.fromkeys([name, *(why.replace("_", "-") for why in more)])
            names[name] = f"{'-'.join(parts)}@{experiment}"
    return names


def _target(stages: list[Stage]) -> Path:
    """The last artifact that Snakemake is asked for: with it all others of these stages exist."""
    last = stages[-1]
    return ITEM.file(f"{last.name}.{next(iter(last.writes))}")


def _reads(stages: list[Stage], experiment: Experiment) -> list[str]:
    """What other stages make, and what the benchmark names, as DVC records it."""
    own = {path for stage in stages for path in stage.recorded}
    paths = [ITEM.file(name) for stage in stages for name in stage.reads]
    paths += [path for stage in stages for files in more_reads(stage.name, experiment, ITEM).values() for path in files]
    outs = dict.fromkeys(map(_out, paths))
    return [out for out in outs if Path(out) not in {ITEM.home(stages[0].name) / path for path in own}]


def _out(path: Path) -> str:
    """The out of DVC that `path` is or lies in, or else the path itself: dvc.lock has the hash of an out alone."""
    if not path.is_relative_to(RESULTS):
        return str(path)
    _, experiment, *rest = path.parts
    below = Path(*rest)
    outs = (out for stage in STAGES.values() for out in stage.recorded)
    out = next((out for out in outs if below.is_relative_to(out)), str(below))
    return str(RESULTS / experiment / out)


def _stage(stages: list[Stage], experiment: Experiment) -> dict[str, Any]:
    """A stage as dvc.yaml has it for experiments that read the same files as `experiment`."""
    options = [option for stage in stages for option in stage.options]
    rules = [stage.name for stage in stages]
    command = ["snakemake --cores all --allowed-rules", *rules, *options, "--", str(_target(stages))]
    persist = any(stage.persist for stage in stages)
    outs = dict.fromkeys(str(ITEM.home(stage.name) / path) for stage in stages for path in stage.recorded)
    metrics = [{str(ITEM.home(stage.name) / path): IN_GIT} for stage in stages for path in stage.metrics]
    return {
        "desc": stages[0].description,
        "cmd": " ".join(command),
        "params": [{str(ITEM.config): _union(stage.blocks for stage in stages)}],
        "deps": [*_reads(stages, experiment), *_union(code(stage.name, experiment.task) for stage in stages)],
        "outs": [{path: {"persist": True}} if persist else path for path in outs],
        # A stage with an uncached out that is not called a metric never enters the run-cache.
        **({"metrics": metrics} if metrics else {}),
    }


def _ablation(params: Params, name: str) -> dict[str, Any]:
    """The stage of an ablation: all of its trials at once, which take from the experiment what they share with it."""
    of = params.ablation(name).experiment
    experiment, home = params.experiment(of), Paths(of)
    stages = [STAGES[stage] for stage in STAGES if stage in experiment.stages() or stage in OPTIONAL]
    made = dict.fromkeys(
        str(home.home(stage) / path)
        for stage in experiment.stages()
        for path in (*STAGES[stage].recorded, *STAGES[stage].metrics)
    )
    target, rules = ablation_file(name), [stage.name for stage in stages]
    blocks = [block for block in type(experiment).model_fields if block != "cluster"]
    return {
        "desc": "Train and compare the variants.",
        "cmd": " ".join(["snakemake --cores all --allowed-rules", *rules, "ablation", "--", str(target)]),
        "params": [f"ablations.{name}", {str(home.config): blocks}],
        "deps": [
            *made,
            *_union([*(code(stage.name, experiment.task) for stage in stages), SUMMARIES["ablation"].code]),
        ],
        "outs": [str(target.parent)],
    }


def _union(lists: Iterable[Iterable[str]]) -> list[str]:
    return sorted({entry for some in lists for entry in some})


def _config(params: Params) -> dict[str, Any]:
    names = [*covered(params), *lenders(params)]
    files = [str(Paths(name).config) for name in names]
    return {
        "desc": "Write the resolved configuration of each experiment.",
        "cmd": f"python -m rpg config {' '.join(names)}",
        # Code that reads params.yaml is no dependency: the files show whether it reads other values.
        "deps": ["params.yaml"],
        "outs": [{file: IN_GIT} for file in files],
    }


def dvc_yaml(params: Params) -> str:
    """The text of dvc.yaml for `params`."""
    run = [Paths(name) for name in params.experiments_to_run()]
    made = ("score.scores", "score.metrics", "novelty.summary", "novelty.rows")
    read = [
        path
        for paths in run
        for path in (
            *map(paths.file, made),
            *(paths.file(f"{stage}.seconds") for stage in params.experiment(paths.experiment).timed()),
        )
    ]
    stages: dict[str, Any] = {"config": _config(params)}
    for name, group in ledger_stages():
        for experiment in [*covered(params), *(lenders(params) if name == "base" else [])]:
            title, _, item = stage_names(params, experiment).get(name, "").partition("@")
            if title in stages:
                stages[title]["foreach"].append(item)
            elif title:
                stages[title] = {"foreach": [item], "do": _stage(group, params.experiment(item))}
    for name in params.ablations_to_run():
        stages[stage_names(params, name)["ablation"]] = _ablation(params, name)
        read.append(RESULTS / name)
    stages["tables"] = {
        "desc": "Put the experiments in `run` beside each other.",
        "cmd": [
            "python -m rpg ledger write --check",
            # The artifacts may come from the run-cache, behind Snakemake's back.
            "python -m rpg ledger adopt",
            f"snakemake --cores all --allowed-rules tables --forcerun tables -- {TABLES}",
        ],
        "params": ["run"],
        "deps": [*map(str, read), *SUMMARIES["tables"].code],
        # Persistent outs are never taken from the run-cache, so that the commands above end every `dvc repro`.
        "outs": [
            {str(TABLES): {**IN_GIT, "persist": True}},
            *({str(RESULTS / name): {"persist": True}} for name in CACHED),
            *({str(paths.card): {"persist": True}} for paths in run),
        ],
    }
    tree = {
        "stages": stages,
        "params": ["params.yaml"],
        "metrics": [str(paths.file("score.metrics")) for paths in run],
        "plots": [
            {
                "loss": {
                    "x": "step",
                    "y": {str(paths.file("train.log")): "loss" for paths in run},
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
