"""Write results/peers.md, RPG beside other generators on the same zoos: `rpg peers`.

Each zoo is an ablation with `peers: true`, whose variants are generators. The page has a table and a plot of each.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from rpg.blocks import PARAMS_FILE
from rpg.config.params import Params
from rpg.config.peers import PeerParams
from rpg.evaluation.intervals import ScoreSample, difference
from rpg.evaluation.results import Method, NoveltyResult, Scores
from rpg.paths import Paths, ablation_file, paths_of
from rpg.reports.ablation import sample_of_trained, trained_networks
from rpg.reports.artifacts import AblationResult, Variant
from rpg.reports.formatting import mean, table
from rpg.reports.tables import measured_methods
from rpg.tokenizer.store import TokenStore
from rpg.utils.artifacts import Seconds
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, read_sealed, write_json, write_text

PAGE, DATA = "peers.md", "peers.json"
HEADING = """# RPG beside other generators on the same zoos

Every generator learns the same checkpoints, and the same stages sample, score and judge its networks. Scores are means
on the test split, in percent; brackets hold a 95 % interval over the zoo's training runs and the generator's trainings.
*Share* is the mean divided by the originals'. *Reads* is what a generator reads at sampling: *images* of the training
split count BatchNorm's statistics again, *labels* select networks. RPG reads nothing. *Distance* is the median distance
from the nearest checkpoint, in units of the median distance of a checkpoint from the nearest other one; *verdict* is as
in tables.md. *Generates* is the number of weights in a network that the generator makes; it copies the others from the
zoo. *Training s* is the mean of the trainings, tuning included, *s per sample* has what sampling reads, and *memory* is
that of the largest training process. *Stored* counts the numbers of the trained generator. The last rows are networks
that are made from the zoo without a generator.
"""
# Stages whose seconds and memory are those of the training.
TRAINING = ("train", "tune")
# Generators that take up to this many times RPG's seconds are compared at equal seconds.
LONGER = 1.5


def costs(params: Params, trials: Sequence[Paths]) -> tuple[float, float, float | None]:
    """Return the mean training seconds, seconds per sample, and megabytes of the trials, if these were measured."""
    training, sampling, memory = [], [], []
    for paths in trials:
        stages = [stage for stage in TRAINING if stage in params.experiment(paths.experiment).stages()]
        if not params.experiment(paths.experiment).train.steps:
            stages.remove("train")
        training.append(sum(_seconds(paths, stage) for stage in stages))
        sampling.append(_seconds(paths, "sample"))
        memory += [used for stage in stages if (used := _memory(paths, stage))]
    count = len(trials)
    return sum(training) / count, sum(sampling) / count, max(memory) if memory else None


def _seconds(paths: Paths, stage: str) -> float:
    return read_json(paths.file(f"{stage}.seconds"), f"rpg {stage} --experiment {paths.experiment}", Seconds).seconds


def _memory(paths: Paths, stage: str) -> float | None:
    maker = paths.makers.get(stage, paths.experiment)
    file = paths.results.parent / "logs" / maker / f"{stage}.tsv"
    return float(pd.read_csv(file, sep="\t")["max_rss"].iloc[0]) if file.is_file() else None


def comparisons(params: Params) -> list[str]:
    """Return the ablations whose variants are generators."""
    return [name for name, ablation in params.ablations.items() if ablation.peers]


def rpg_variant(params: Params, name: str) -> str:
    """Return the first variant whose generator is RPG; UserError if there is none."""
    for trial, experiment in params.trials(name).items():
        if experiment.model.generator is None:
            return trial.partition("/")[2].rpartition("-")[0]
    raise UserError(f"{PARAMS_FILE}: ablations.{name}.variants: none is RPG; add `rpg: {{}}`")


def write_peers(params: Params, results: Path) -> None:
    """Write peers.md and peers.json; UserError if an ablation is missing."""
    text, data = [HEADING], {}
    for name in comparisons(params):
        command = f"rpg ablation --experiment {name}"
        result = read_sealed(ablation_file(name, results), command, AblationResult)
        methods = dict(_methods(params, name, results))
        text.append(_section(params, name, result, methods, results))
        data[name] = [
            {"method": method, "group": group, "mean": of.mean, "distance": of.distance, "verdict": of.verdict}
            for (method, group), of in methods.items()
        ]
    write_text(results / PAGE, "\n".join(text))
    write_json(results / DATA, data)


def _methods(params: Params, name: str, results: Path) -> Iterator[tuple[tuple[str, str], Method]]:
    """Yield (name, group) and the measures of all generators of whole networks, and of networks without a generator.

    The groups are originals, RPG, generator and zoo. Each generator has those of its first training.
    """
    ablation = params.ablation(name)
    for variant in ablation.variants:
        trial = paths_of(params, f"{name}/{variant}-{ablation.seeds[0]}", results)
        novelty = _novelty(trial)
        if params.experiment(trial.experiment).tokens == params.experiment(ablation.experiment).tokens:
            yield (
                (variant, "RPG" if params.experiment(trial.experiment).model.generator is None else "generator"),
                novelty.rpg["all"],
            )
        if variant == rpg_variant(params, name):
            for method, key, measures in measured_methods(novelty):
                if key == "all" and not method.startswith("RPG"):
                    yield (method, "originals" if method == "originals" else "zoo"), measures


def _section(
    params: Params, name: str, result: AblationResult, methods: dict[tuple[str, str], Method], results: Path
) -> str:
    ablation, kind = params.ablation(name), result.metric_kind
    rows = [_row(params, name, variant, result, results) for variant in result.variants]
    original = result.variants[0].sets["all"].test.original
    for (method, group), measures in methods.items():
        if group == "zoo":
            rows.append(
                {
                    "generator": method,
                    "mean": mean(measures, kind),
                    "min": kind.text(measures.min),
                    "share": f"{measures.mean / original.mean:.3f}",
                    "distance": f"{measures.distance:.2f}",
                    "verdict": measures.verdict,
                }
            )
    lines = [
        f"## {ablation.experiment}",
        "",
        f"{ablation.question} The originals have {mean(original, kind)} on the test split.",
        "",
        table([{column: row.get(column, "-") for column in rows[0]} for row in rows]),
        *(f"- {line}" for line in _conclusions(params, name, result, results)),
        "",
    ]
    return "\n".join(lines)


def _row(params: Params, name: str, variant: Variant, result: AblationResult, results: Path) -> dict[str, str]:
    scored, kind, trials = variant.sets["all"], result.metric_kind, _trials(params, name, variant.variant, results)
    training, sampling, memory = costs(params, trials)
    generator = params.experiment(trials[0].experiment).model.generator
    distances = [_novelty(paths).rpg["all"].distance for paths in trials]
    return {
        "generator": variant.variant,
        "mean": mean(scored.test.rpg, kind),
        "min": kind.text(scored.test.rpg.min),
        "share": f"{scored.test.rpg.mean / scored.test.original.mean:.3f}",
        "mean, validation": kind.text(scored.validation.rpg.mean),
        "reads": _reads(generator),
        "distance": f"{sum(distances) / len(distances):.2f}",
        "verdict": scored.novelty.verdict if scored.novelty else "-",
        "generates": f"{TokenStore(trials[0].folder('tokens')).layout.weights:,}",
        "training s": f"{training:.1f}",
        "s per sample": f"{sampling:.3f}",
        "memory MB": "-" if memory is None else f"{memory:.0f}",
        "stored": f"{variant.parameters:,}",
    }


def _reads(generator: PeerParams | None) -> str:
    if generator is None or not generator.recount:
        return "-"
    return "images, labels" if getattr(generator, "candidates", 1) > 1 else "images"


def _novelty(paths: Paths) -> NoveltyResult:
    return read_sealed(paths.file("novelty.summary"), f"rpg novelty --experiment {paths.experiment}", NoveltyResult)


def _trials(params: Params, name: str, variant: str, results: Path) -> list[Paths]:
    return [paths_of(params, f"{name}/{variant}-{seed}", results) for seed in params.ablation(name).seeds]


def _samples(trials: Sequence[Paths]) -> ScoreSample:
    """Return the test scores of a generator's networks."""
    scores = [
        read_sealed(paths.file("score.scores"), f"rpg score --experiment {paths.experiment}", Scores)
        for paths in trials
    ]
    return sample_of_trained(trained_networks(scores, "rpg", "all"), "test")


def _conclusions(params: Params, name: str, result: AblationResult, results: Path) -> Iterator[str]:
    """Yield RPG's mean beside that of the rival with the best validation score, and RPG's speed of sampling.

    A generator of a part of the weights is no rival.
    """
    kind, first = result.metric_kind, rpg_variant(params, name)
    variants = {variant.variant: variant for variant in result.variants}
    trials = {variant: _trials(params, name, variant, results) for variant in variants}
    tokens = params.experiment(trials[first][0].experiment).tokens
    rivals = [
        variant
        for variant, paths in trials.items()
        if variant != first and params.experiment(paths[0].experiment).tokens == tokens
    ]
    spent = {variant: costs(params, paths) for variant, paths in trials.items()}
    longer = [variant for variant in rivals if spent[variant][0] > LONGER * spent[first][0]]
    for title, chosen in (
        (f"in at most {LONGER:g} times RPG's seconds", [variant for variant in rivals if variant not in longer]),
        (f"in more than {LONGER:g} times RPG's seconds", longer),
    ):
        if chosen:
            best = max(chosen, key=lambda other: kind.rank(variants[other].sets["all"].validation.rpg.mean))
            above, interval = difference(_samples(trials[first]), _samples(trials[best]))
            low, high = sorted(map(kind.rank, interval or (-math.inf, math.inf)))
            outcome = "RPG wins" if low > 0 else "RPG loses" if high < 0 else "neither wins"
            brackets = f" [{kind.text(interval[0], '+')}, {kind.text(interval[1], '+')}]" if interval else ""
            novelty = variants[best].sets["all"].novelty
            yield (
                f"Of generators {title}, *{best}* has the best validation score (verdict:"
                f" {novelty.verdict if novelty else '-'}). RPG minus it, on the test split, is"
                f" {kind.text(above, '+')}{brackets}: {outcome}."
            )
    for variant in rivals:
        generator = params.experiment(trials[variant][0].experiment).model.generator
        if generator and generator.kind in ("p_diff", "sane"):
            faster = spent[variant][1] / spent[first][1]
            yield f"RPG samples {faster:.1f} times as fast as *{variant}*."
