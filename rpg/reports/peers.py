"""Write results/peers.md, RPG beside other generators on the same zoos: `rpg peers`.

Each zoo is an ablation with `peers: true`, whose variants are generators. The page has a table and a plot of each.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from rpg.blocks import PARAMS_FILE
from rpg.config.params import Params
from rpg.evaluation.results import Method, NoveltyResult
from rpg.paths import Paths, ablation_file, paths_of
from rpg.reports.artifacts import AblationResult, Variant
from rpg.reports.formatting import mean, table
from rpg.reports.tables import measured_methods
from rpg.utils.artifacts import Seconds
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, read_sealed, write_json, write_text

PAGE, DATA = "peers.md", "peers.json"
HEADING = """# RPG beside other generators on the same zoos

Every generator learns the same checkpoints, and the same stages sample, score and judge its networks. Scores are means
on the test split, in percent; brackets hold a 95 % interval over the zoo's training runs and the generator's trainings.
*Share* is the mean divided by the originals'. *Distance* is the samples' median distance from the nearest checkpoint
and, behind the slash, that of an original from the other training runs; *verdict* is as in tables.md. Seconds are means
of the trainings; for RPG, training and tuning. Memory is the largest of the training's processes. The last rows are
networks that are made from the zoo without a generator.
"""
# Stages whose seconds and memory are those of the training.
TRAINING = ("train", "tune")


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
    """Yield (name, group) and the measures of all generators of a zoo, and of the networks without a generator.

    The groups are originals, RPG, generator and zoo. Each generator has those of its first training.
    """
    ablation = params.ablation(name)
    for variant in ablation.variants:
        trial = paths_of(params, f"{name}/{variant}-{ablation.seeds[0]}", results)
        command = f"rpg novelty --experiment {trial.experiment}"
        novelty = read_sealed(trial.file("novelty.summary"), command, NoveltyResult)
        yield (
            (variant, "RPG" if params.experiment(trial.experiment).model.generator is None else "generator"),
            novelty.rpg["all"],
        )
        if variant == next(iter(ablation.variants)):
            for method, key, measures in measured_methods(novelty):
                if key == "all" and not method.startswith("RPG"):
                    yield (method, "originals" if method == "originals" else "zoo"), measures


def _section(
    params: Params, name: str, result: AblationResult, methods: dict[tuple[str, str], Method], results: Path
) -> str:
    ablation, kind = params.ablation(name), result.metric_kind
    rows = [_row(params, name, variant, result, results) for variant in result.variants]
    for (method, group), measures in methods.items():
        if group == "zoo":
            rows.append(
                {
                    "generator": method,
                    "mean": mean(measures, kind),
                    "min": kind.text(measures.min),
                    "share": f"{measures.mean / result.variants[0].sets['all'].test.original.mean:.3f}",
                    "distance": f"{measures.distance:.2f} units",
                    "verdict": measures.verdict,
                }
            )
    original = result.variants[0].sets["all"].test.original
    frame = pd.DataFrame(rows).fillna("-").to_dict("records")
    lines = [
        f"## {ablation.experiment}",
        "",
        f"{ablation.question} The originals have {mean(original, kind)} on the test split. A *unit* is the zoo's own"
        " median distance between checkpoints.",
        "",
        table([{str(key): value for key, value in row.items()} for row in frame]),
        *(f"- {line}" for line in _conclusions(params, name, result, results)),
        "",
    ]
    return "\n".join(lines)


def _row(params: Params, name: str, variant: Variant, result: AblationResult, results: Path) -> dict[str, str]:
    scored, kind = variant.sets["all"], result.metric_kind
    training, sampling, memory = costs(params, _trials(params, name, variant.variant, results))
    distances = scored.novelty
    other = "-" if not distances or distances.original is None else f"{distances.original:.3f}"
    return {
        "generator": variant.variant,
        "mean": mean(scored.test.rpg, kind),
        "min": kind.text(scored.test.rpg.min),
        "share": f"{scored.test.rpg.mean / scored.test.original.mean:.3f}",
        "mean, validation": kind.text(scored.validation.rpg.mean),
        "distance": f"{distances.rpg:.3f} / {other}" if distances else "-",
        "verdict": distances.verdict if distances else "-",
        "training s": f"{training:.1f}",
        "s per sample": f"{sampling:.3f}",
        "memory MB": "-" if memory is None else f"{memory:.0f}",
        "parameters": f"{variant.parameters:,}",
    }


def _trials(params: Params, name: str, variant: str, results: Path) -> list[Paths]:
    return [paths_of(params, f"{name}/{variant}-{seed}", results) for seed in params.ablation(name).seeds]


def _conclusions(params: Params, name: str, result: AblationResult, results: Path) -> Iterator[str]:
    """Yield whether RPG has the best mean of the generators, and who has it, and how much faster RPG samples."""
    kind = result.metric_kind
    variants = {variant.variant: variant for variant in result.variants}
    first = rpg_variant(params, name)
    others = [variant for variant in variants if variant != first]
    own = variants[first].sets["all"].test.rpg
    limit = 1.5 * costs(params, _trials(params, name, first, results))[0]
    spent = {other: costs(params, _trials(params, name, other, results)) for other in others}
    for title, chosen in (
        ("at RPG's seconds", [other for other in others if spent[other][0] <= limit]),
        ("with more seconds", [other for other in others if spent[other][0] > limit]),
    ):
        if chosen:
            best = max(chosen, key=lambda other: kind.rank(variants[other].sets["all"].test.rpg.mean))
            score = variants[best].sets["all"].test.rpg.mean
            level = kind.rank(own.mean) - kind.rank(score)
            outcome = "wins" if level > 0 else "loses" if level < 0 else "is level"
            scores = f"it has {kind.text(own.mean)}, and the best rival, {best}, has {kind.text(score)}"
            yield f"Among generators {title}, RPG {outcome}: {scores}."
    sampling = costs(params, _trials(params, name, first, results))[1]
    for other in others:
        if other in ("p-diff", "sane"):
            yield f"RPG samples {spent[other][1] / sampling:.1f} times as fast as {other}."
