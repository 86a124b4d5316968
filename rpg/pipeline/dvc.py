"""Generate dvc.yaml, the ledger's table of contents: one stage per stage of the pipeline and experiment.

A stage of dvc.yaml calls Snakemake for its rules. The stage's deps, params and outs list the inputs and outputs of
these rules, so `dvc status` and `snakemake --dry-run` agree on what is up to date. DVC tracks values in the resolved
configurations, results/<experiment>/config.yaml.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.paths import METRICS, RESULTS, TABLES, Paths, ablation_file
from rpg.pipeline.workflow import conditional_reads, tables_reads, task_label
from rpg.sources import code, has_peer
from rpg.stages import OPTIONAL, STAGES, SUMMARIES, TASK_CODES, Stage, covered_by

HEADER = """\
# The ledger: one stage per stage of the pipeline and experiment, each of which calls Snakemake for its rules.
# Written by `rpg ledger write` from params.yaml and rpg/stages.py; a test compares it with both.
"""
ITEM = Paths("${item}")
# Small files that live in git, not in DVC's cache.
IN_GIT = {"cache": False}
# Outputs of the tables' stage in DVC's cache, besides the model cards: large, or different in every run.
CACHED = ("scores.csv", "novelty.csv", "seconds.json", "seconds.md")


def covered(params: Params) -> list[str]:
    """Return the experiments in dvc.yaml: those in `run:`, and those of ablations in `run:`."""
    of_ablations = [params.ablation(name).experiment for name in params.ablations_to_run()]
    return list(dict.fromkeys([*params.experiments_to_run(), *of_ablations]))


def lenders(params: Params) -> list[str]:
    """Return the experiments outside of dvc.yaml whose base networks an experiment in dvc.yaml uses."""
    owners = (params.experiment(name).task.borrowed_base() for name in covered(params))
    return [name for name in dict.fromkeys(owners) if name and name not in covered(params)]


def ledger_stages() -> Iterator[tuple[str, list[Stage]]]:
    """Yield an experiment's stages of dvc.yaml, first to last, each with its stages of the pipeline."""
    for name in STAGES:
        if covered_by(name) == name:
            yield name, [stage for stage in STAGES.values() if covered_by(stage.name) == name]


def stage_names(params: Params, experiment: str) -> dict[str, str]:
    """Return stage → name in dvc.yaml, as `tokens@digits-vit`; an ablation has one stage.

    Experiments whose stages read different files need different names. So a name contains the benchmark with its data
    set, the optional stages, and the benchmark's additional files, as
    `sample-task-codes-digits-tune-hypernetwork@digits-tasks`.
    """
    if experiment in params.ablations:
        return {"ablation": f"ablation-{experiment}"}
    chosen = params.experiment(experiment)
    names = {}
    for name, stages in ledger_stages():
        if name in chosen.stages():
            parts = [task_label(chosen.task)] if any(stage.task_code for stage in stages) else []
            # The label already contains the task codes.
            reasons = [part for stage in stages for why in _more_reads(stage, chosen) for part in why.split(" and ")]
            parts += [reason for reason in reasons if reason != TASK_CODES]
            words = dict.fromkeys([name, *(part.replace("_", "-") for part in parts)])
            names[name] = f"{'-'.join(words)}@{experiment}"
    return names


def _more_reads(stage: Stage, experiment: Experiment) -> dict[str, list[Path]]:
    """Return reason → additional files of a stage, with the runs of all shards, because dvc.yaml knows no shards."""
    runs = experiment.task.zoo_reads(experiment.zoo) if stage.sharded else {}
    return conditional_reads(stage.name, experiment, ITEM) | runs


def _target(stages: list[Stage]) -> Path:
    """Return Snakemake's target: the last artifact, which exists only if all others of these stages exist."""
    last = stages[-1]
    return ITEM.file(f"{last.name}.{next(iter(last.writes))}")


def _reads(stages: list[Stage], experiment: Experiment) -> list[str]:
    """Return the inputs from other stages and from the benchmark, as DVC records them."""
    own = {path for stage in stages for path in stage.recorded}
    paths = [ITEM.file(name) for stage in stages for name in stage.reads]
    paths += [path for stage in stages for files in _more_reads(stage, experiment).values() for path in files]
    outs = dict.fromkeys(map(_out, paths))
    return [out for out in outs if Path(out) not in {ITEM.home(stages[0].name) / path for path in own}]


def _out(path: Path) -> str:
    """Return DVC's out that contains `path`, or the path itself, because dvc.lock has hashes of whole outs only."""
    if not path.is_relative_to(RESULTS):
        return str(path)
    _, experiment, *rest = path.parts
    below = Path(*rest)
    outs = (out for stage in STAGES.values() for out in stage.recorded)
    out = next((out for out in outs if below.is_relative_to(out)), str(below))
    return str(RESULTS / experiment / out)


def tracked_blocks(stages: list[Stage]) -> list[str]:
    """Return the blocks of the configuration that DVC tracks for `stages`.

    A stage that reads the zoo's folder needs no `task`: the manifests in that folder hold the block.
    """
    blocks = {block for stage in stages for block in stage.blocks}
    reads_zoo = any("collect.checkpoints" in stage.reads for stage in stages)
    return sorted(blocks - {"task"} if reads_zoo else blocks)


def _stage(stages: list[Stage], experiment: Experiment) -> dict[str, Any]:
    """Return the entry in dvc.yaml of `stages` for experiments that read the same files as `experiment`."""
    options = [option for stage in stages for option in stage.options]
    rules = [stage.name for stage in stages]
    command = ["snakemake --cores all --allowed-rules", *rules, *options, "--", str(_target(stages))]
    persist = any(stage.persist for stage in stages)
    outs = dict.fromkeys(str(ITEM.home(stage.name) / path) for stage in stages for path in stage.recorded)
    metrics = [{str(ITEM.home(stage.name) / path): IN_GIT} for stage in stages for path in stage.metrics]
    return {
        "desc": stages[0].description,
        "cmd": " ".join(command),
        **({"params": [{str(ITEM.config): blocks}]} if (blocks := tracked_blocks(stages)) else {}),
        "deps": [
            *_reads(stages, experiment),
            *_union(code(stage.name, experiment.task, has_peer(experiment)) for stage in stages),
        ],
        "outs": [{path: {"persist": True}} if persist else path for path in outs],
        # DVC keeps a stage out of the run-cache if an uncached out is not declared as a metric.
        **({"metrics": metrics} if metrics else {}),
    }


def _ablation(params: Params, name: str) -> dict[str, Any]:
    """Return the entry of an ablation: all trials at once, which share artifacts with the ablation's experiment."""
    base = params.ablation(name).experiment
    experiment, home = params.experiment(base), Paths(base)
    stages = [STAGES[stage] for stage in STAGES if stage in experiment.stages() or stage in OPTIONAL]
    made = dict.fromkeys(
        str(home.home(stage) / path)
        for stage in experiment.stages()
        for path in (*STAGES[stage].recorded, *STAGES[stage].metrics)
    )
    peer = any(map(has_peer, params.trials(name).values()))
    target, rules = ablation_file(name), [stage.name for stage in stages]
    blocks = [block for block in type(experiment).model_fields if block != "cluster"]
    return {
        "desc": "Train and compare the variants.",
        "cmd": " ".join(["snakemake --cores all --allowed-rules", *rules, "ablation", "--", str(target)]),
        "params": [f"ablations.{name}", {str(home.config): blocks}],
        "deps": [
            *made,
            *_union([*(code(stage.name, experiment.task, peer) for stage in stages), SUMMARIES["ablation"].code]),
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
        # Code that reads params.yaml is no dependency, because the written files show changed values.
        "deps": ["params.yaml"],
        "outs": [{file: IN_GIT} for file in files],
    }


def dvc_yaml(params: Params) -> str:
    """Return the text of dvc.yaml for `params`."""
    run = [Paths(name) for name in params.experiments_to_run()]
    read = tables_reads(params, params.experiments_to_run())
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
        "desc": "Write the tables of the experiments in `run`.",
        "cmd": [
            "python -m rpg ledger write --check",
            # Snakemake does not know artifacts that DVC restored from the run-cache.
            "python -m rpg ledger adopt",
            f"snakemake --cores all --allowed-rules tables --forcerun tables -- {TABLES}",
        ],
        "params": ["run"],
        "deps": [*map(str, read), *SUMMARIES["tables"].code],
        # DVC never restores persistent outs from the run-cache, so every `dvc repro` ends with the commands above.
        "outs": [
            *({str(path): {**IN_GIT, "persist": True}} for path in (TABLES, METRICS)),
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
                    "title": "Accuracy of networks over their distance from the zoo",
                }
            },
        ],
    }
    # A round trip through JSON removes YAML aliases of shared blocks.
    return HEADER + yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False, width=120)
