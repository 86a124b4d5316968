"""Write the tables of all experiments in `run:`: `rpg tables`.

Writes results/tables.md, metrics.json, scores.csv (one row per network), novelty.csv (one row per measured network) and
a model card per experiment; these files have the same bytes in every run. Also writes the measured times to
results/seconds.json and seconds.md. Scores are over all samples and all originals.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.evaluation.methods import kinds, knows, label
from rpg.evaluation.results import Ensemble, Method, Metrics, NoveltyResult, Scores, Symmetries
from rpg.evaluation.score import SETS
from rpg.paths import Paths
from rpg.reports.ablation_table import ablations
from rpg.reports.artifacts import ExperimentResult, ExperimentResults
from rpg.reports.formatting import join_medians, label_set, mean, points, table
from rpg.reports.model_cards import card
from rpg.reports.promises import promise_section
from rpg.reports.published import PUBLISHED, SOURCES
from rpg.stages import STAGES
from rpg.tasks.config import ReportSection
from rpg.tasks.registry import task_blocks
from rpg.utils.artifacts import Compared, Reported, Seconds, Set, Summaries
from rpg.utils.files import read_json, read_sealed, verified_file, write_json, write_text
from rpg.utils.metric import PERCENT, MetricKind

# Stage → its measured time.
Timings = Mapping[str, Seconds]

HEADING = """# Generated networks beside the originals they learned from

{metrics} on the test split, over all n networks; ± is the standard deviation. Brackets hold a 95 % interval:
Student's t over the training runs, or over the tasks, because the saves of one run, and the networks of one task, are
not independent. One run has no interval. *RPG − original* pairs the runs or tasks and, where the metric is the share of
right answers, the test images; its interval includes the error of both.

"""
UNITS = """*Min* is the worst network and *best* the best one: where lower is better, *best* is the smallest score and
*min* the largest. *RPG − original* is in the metric's unit. Where lower is better, a negative difference favors RPG.

"""
UNSEEN = """*Knows* is all that a method learned from: the *zoo*'s checkpoints; *labels* of training images in the tasks
of the zoo's checkpoints; *own labels*, those of the task that the network is for; *images* of the training split
without labels; the *base network* that the zoo started from, which tells all classes apart. *RPG − it* is the
difference of the means on held-out tasks in points, with its 95 % interval. *BatchNorm recounted* rows have the
statistics of 500 training images in place of their own.

"""
PUBLISHED_TEXT = """
## Beside published numbers

In percent on the test split. Where one number of a method's networks is given, it stands under *best*. What p-diff,
SANE and D2NWG reach on CIFAR-10 is as RPG's authors report it beside their own. {sources}.
Networks for ImageNet are scored here at the resolution of timm's own scores, 288 pixels for ResNet-50 and ConvNeXt.

"""
NOVELTY = """
## Are the samples new?

Medians over n samples, and over originals. Distances are root mean squares over the weights, each tensor normalised,
so that 1 is the standard deviation of a tensor's weights. *Distance* is to the nearest checkpoint of the zoo; of an
original, to the nearest of other training runs. Distances leave out the *symmetries*: groups of units that may be
permuted, groups of units that may be rescaled, and low-rank pairs. *Residual* is the distance to the nearest affine
combination of these checkpoints. *IoU* is that of the wrong answers, *disagreement* the percentage of different
answers, each with the nearest original for the same task, of other training runs for an original. *Ensemble* is the
accuracy of a vote of samples, and of as many originals, of all runs in turn. What is answered is the class of an image;
of segmentation the class of a pixel, at 16 × 16 places of each image; of detection the class of the surest box that
overlaps an object's by half.

u is the distance of the originals. Samples are a *replica* if their distance is under {copy} u, otherwise an
*interpolation* if their residual is under {combined} of their distance, otherwise again a *replica*, with something
added, if their distance is under {near} u, otherwise *inaccurate* if they have less than {accurate} of the accuracy of
the originals for the same tasks, otherwise *as noise* if checkpoints plus noise of the same distance are as accurate,
and else *novel*. There is no verdict for a zoo of *one run*, and none if u is under {floor}, *no scale*: noise of this
size changes nothing.

"""
SHARES = """For a metric that is no percentage, or of which lower is better, the share of the originals' accuracy is the
score divided by the mean score of the originals, or its inverse if lower is better. There is no share if either is not
positive. The verdict is then *no scale*, unless the distances alone decide.

"""
ALONE = """
## {name}: what else can be made of its zoo

The zoo has one checkpoint alone: there is no distance between checkpoints that others could be measured by.

"""
# The distances of networks whose units may change places, and of others.
MATCHED = """Those of RPG and of the originals are with the
networks' units permuted to match. So are those of up to four networks of each other row, where the verdict needs it;
the rest are not, which makes them no smaller."""
UNMATCHED = """No group of units was found
that may be permuted, so a network with its units in another order counts as far away."""
MIXTURES = """
## {name}: what else can be made of its zoo

Distances are in units of the zoo's median nearest distance, {unit:.4f}. {matched} \
*Verdict* follows the rule above. *Beaten by* counts the other rows for
the same tasks, RPG's own left out, that are as accurate and as far from the zoo, both. The last columns have the
fraction of networks that reach {accurate} of the accuracy of the originals for the same task and are farther from the
zoo than so many units. Saves of one run are very near to each other: where a run has several, {unit:.4f} is little.

"""


def metrics(params: Params, results: Path, times: Mapping[str, Timings]) -> ExperimentResults:
    """Return metrics.json: one entry per experiment in `run:`, with task, test.json, novelty.json and devices."""

    def entry(name: str) -> ExperimentResult:
        paths, command = Paths(name, results), f"rpg score --experiment {name}"
        scored = read_json(
            verified_file(paths.file("score.test"), paths.file("score.scores"), command), command, Metrics
        ).tree()
        novelty = read_sealed(paths.file("novelty.summary"), f"rpg novelty --experiment {name}", NoveltyResult).tree()
        del novelty["files"]
        # The score stage scores baselines on every task, so its numbers replace those of the novelty stage.
        baselines = {**novelty["baselines"], **scored.get("baselines", {})}
        experiment = params.experiment(name)
        return ExperimentResult.model_validate(
            {
                "task": experiment.task.kind,
                "knows": knowledge(experiment, list(scored.get("baselines", {}))),
                **scored,
                "novelty": novelty,
                "baselines": baselines,
                # The devices on which RPG was trained. An imported RPG has none.
                "devices": list(dict.fromkeys(time.device for time in times[name].values() if time.device)),
            }
        )

    return ExperimentResults(experiments={name: entry(name) for name in params.experiments_to_run()})


def read_timings(params: Params, results: Path) -> dict[str, Timings]:
    """Return the measured times of the stages of each experiment in `run:`."""
    return {
        name: {
            stage: read_sealed(Paths(name, results).file(f"{stage}.seconds"), f"rpg {stage}", Seconds)
            for stage in params.experiment(name).timed()
        }
        for name in params.experiments_to_run()
    }


def scores(params: Params, results: Path) -> pd.DataFrame:
    """Return scores.csv: one row per original and per sample of every experiment in `run:`."""
    rows = [
        {
            "experiment": name,
            "networks": label_set(kind, "between" if network.between else "all"),
            "file": network.file,
            "validation": network.validation,
            "test": network.test,
        }
        for name in params.experiments_to_run()
        for scored in [read_sealed(Paths(name, results).file("score.scores"), f"rpg score --experiment {name}", Scores)]
        for kind, networks in (("original", scored.original), ("RPG", scored.rpg))
        for network in networks
    ]
    return pd.DataFrame(rows)


def novelty_rows(params: Params, results: Path) -> pd.DataFrame:
    """Return novelty.csv: one row per measured network, with the distance in units of the zoo's median."""
    frames = []
    for name in params.experiments_to_run():
        paths = Paths(name, results)
        frame = pd.read_csv(
            verified_file(paths.file("novelty.rows"), paths.file("novelty.summary"), f"rpg novelty --experiment {name}")
        )
        unit = frame.loc[frame["networks"] == "original", "distance"].median()
        frame = frame[["networks", "set", "test"]].assign(distance=(frame["from_zoo"] / unit).round(4))
        frames.append(frame.assign(experiment=name)[["experiment", *frame.columns]])
    return pd.concat(frames)


def seconds(times: Mapping[str, Timings]) -> dict[str, Any]:
    """Return seconds.json: the measured seconds of each training, and seconds per sample."""
    return {
        "experiments": {
            name: {"seconds": {stage: time.seconds for stage, time in stages.items()}} for name, stages in times.items()
        }
    }


def markdown(experiments: Mapping[str, ExperimentResult]) -> str:
    """Return tables.md from metrics.json: the columns of the paper's Table 1, unseen tasks, novelty and baselines."""
    rows = [
        {
            "network": name,
            "metric": entry.metric_kind.label(entry.metric),
            "parameters": f"{entry.parameters:,}",
            **original_and_rpg_columns(entry, entry.metric_kind),
            "RPG − original": points(entry.differences["original"].get(key), entry.metric_kind),
        }
        for experiment, entry in experiments.items()
        for name, key, entry in between_apart(experiment, entry)
    ]
    return (
        HEADING.format(metrics=metrics_in_units(experiments))
        + (UNITS if has_other_metrics(experiments) else "")
        + table(rows)
        + promise_section(experiments)
        + "".join(unseen_tasks(name, entry) for name, entry in experiments.items() if entry.held_out)
        + task_sections(experiments)
        + published_section(experiments)
        + novelty_section(experiments)
        + "".join(zoo_baselines(name, entry.novelty, entry.metric_kind) for name, entry in experiments.items())
    )


def metrics_in_units(experiments: Mapping[str, ExperimentResult]) -> str:
    """Return the names of all metrics with their units: "mIoU, top1 in percent; psnr in dB"."""
    by_unit: dict[str, set[str]] = {}
    for entry in sorted(experiments.values(), key=lambda entry: not entry.metric_kind.is_percent):
        by_unit.setdefault(entry.metric_kind.in_unit, set()).add(entry.metric)
    return "; ".join(f"{', '.join(sorted(names))} {unit}" for unit, names in by_unit.items())


def has_other_metrics(experiments: Mapping[str, ExperimentResult]) -> bool:
    """Return whether a metric is no percentage, or lower is better."""
    return any(entry.metric_kind != PERCENT for entry in experiments.values())


def between_apart(name: str, entry: ExperimentResult) -> Iterator[tuple[str, Set, ExperimentResult]]:
    """Yield the rows of an experiment in the first table: its samples, and those between training runs."""
    yield name, "all", entry
    if entry.between:
        yield label_set(name, "between"), "between", entry.model_copy(update={"rpg": entry.between})


def original_and_rpg_columns(scores: Compared, kind: MetricKind = PERCENT) -> dict[str, Any]:
    """Return the columns of the paper's tables from the summaries of `original` and `rpg`."""
    original, rpg = scores.original, scores.rpg
    return {
        "original mean ± std": mean(original, kind),
        "original best": kind.text(original.best),
        "original n": original.n,
        "RPG mean ± std": mean(rpg, kind),
        "RPG min": kind.text(rpg.min),
        "RPG best": kind.text(rpg.best),
        "RPG n": rpg.n,
    }


def knowledge(experiment: Experiment, methods: Sequence[str]) -> dict[str, str]:
    """Return method → the source of its knowledge, for an experiment with task codes."""
    if not experiment.task.has_codes:
        return {}
    tune = {"labels": "labels", "outputs": "images"}[experiment.tune.loss] if experiment.tune else None
    hypernetwork = experiment.hypernetwork
    start, loss = (hypernetwork.start, hypernetwork.loss) if hypernetwork else ("zero", "labels")
    return {method: knows(method, tune, start, loss) for method in ("original", "rpg", *methods)}


def unseen_tasks(name: str, entry: ExperimentResult) -> str:
    """Return the section of an experiment with task codes: originals, RPG and every baseline."""
    originals = entry.original_by_set or {}
    summaries = {"original": originals, "rpg": entry.by_set(), **entry.baselines}
    sets = [key for key in SETS if key in originals]

    def row(kind: str) -> dict[str, Any]:
        cells: dict[str, Any] = {"networks": label(kind), "knows": entry.knows.get(kind, "-")}
        for key in sets:
            of_set = summaries[kind][key]
            cells |= {
                f"{SETS[key]} mean ± std": mean(of_set),
                f"{SETS[key]} min": f"{of_set.min:.2f}",
                f"{SETS[key]} n": of_set.n,
            }
        cells["RPG − it, held-out"] = points(entry.differences.get(kind, {}).get("held_out"))
        return cells

    rows = [row(kind) for kind in kinds() if kind in summaries]
    return f"\n## {name}: tasks seen and never seen\n\n{UNSEEN}{table(rows)}"


def task_sections(experiments: Mapping[str, Reported]) -> str:
    """Return the additional sections of the experiments' benchmarks, each once, in the order of the experiments."""
    sections: list[ReportSection] = []
    for kind in dict.fromkeys(entry.task for entry in experiments.values()):
        section = task_blocks()[kind].report_section(experiments)
        if section and section not in sections:
            sections.append(section)
    return "".join(
        section.text + table([{**columns, **original_and_rpg_columns(scores)} for columns, scores in section.rows])
        for section in sections
    )


def published_section(experiments: Mapping[str, Reported]) -> str:
    """Return the section that compares the paper's experiments here with published numbers, or "" without any."""
    rows = []
    for name, entry in experiments.items():
        measured_here: dict[str, Compared] = {entry.metric: entry, **entry.others}
        known = PUBLISHED.get(name, ())
        for metric in dict.fromkeys(row.metric for row in known):
            scores = measured_here[metric]
            # An experiment with unseen tasks is compared on these tasks.
            original, rpg = scores.original, scores.rpg
            if isinstance(scores, Summaries):
                original, rpg = (scores.original_by_set or {}).get("held_out", original), scores.held_out or rpg
            numbers = (original.mean, rpg.best, rpg.mean, rpg.min)
            rows.append(_published(name, metric, "RPG, here", numbers, f"n = {rpg.n}"))
            rows += [
                _published(name, metric, row.method, (row.original, row.best, row.mean, row.min), row.note)
                for row in known
                if row.metric == metric
            ]
    if not rows:
        return ""
    methods = dict.fromkeys(row["method"] for row in rows)
    sources = "; ".join(f"{method}: {SOURCES[method]}" for method in methods if method in SOURCES)
    return PUBLISHED_TEXT.format(sources=sources) + table(rows)


def _published(name: str, metric: str, method: str, numbers: tuple[float | None, ...], note: str) -> dict[str, str]:
    columns = ("original", "best", "mean", "min")
    cells = {
        column: "-" if number is None else f"{number:.1f}" for column, number in zip(columns, numbers, strict=True)
    }
    return {"network": name, "metric": metric, "method": method, **cells, "note": note}


def novelty_section(experiments: Mapping[str, ExperimentResult]) -> str:
    """Return the section with a verdict on the samples of each experiment and set of tasks."""
    rows = []
    for name, entry in experiments.items():
        novelty = entry.novelty
        # Originals are compared with other training runs if the zoo has several.
        zoo = {**novelty.zoo, "aligned": novelty.zoo.get("aligned_across", novelty.zoo.get("aligned"))}
        for key in (key for key in SETS if key in novelty.rpg):
            samples = novelty.rpg[key]
            rows.append(
                {
                    "samples": label_set(name, key),
                    "n": samples.n,
                    "verdict": samples.verdict,
                    "distance: sample / original": join_medians("aligned", 4, samples.median, zoo),
                    "residual: sample / original": join_medians("residual", 4, samples.median, zoo),
                    "IoU: sample / original": join_medians("iou", 2, samples.median, zoo),
                    "disagreement: sample / original": join_medians("disagreement", 1, samples.median, zoo),
                    "ensemble: samples / originals": ensemble(samples.ensemble),
                    "symmetries: permuted / rescaled / pairs": symmetries(novelty.symmetries),
                }
            )
    rule = next(iter(experiments.values())).novelty.rule
    text = NOVELTY.format(**{**rule.tree(), "accurate": f"{rule.accurate:.0%}"})
    return text + (SHARES if has_other_metrics(experiments) else "") + table(rows)


def ensemble(accuracies: Ensemble | dict[str, float] | None) -> str:
    """Format the accuracies of two ensembles."""
    return f"{accuracies.rpg:.1f} / {accuracies.original:.1f}" if isinstance(accuracies, Ensemble) else "-"


def symmetries(found: Symmetries | None) -> str:
    """Format the numbers of symmetries that distances leave out, or the reason if there are none."""
    if not isinstance(found, Symmetries):
        return "-"
    counts = f"{found.permutations} / {found.scales} / {found.low_rank}"
    return f"{counts} ({found.reason})" if found.reason else counts


# A method's name in the tables, the set of networks (a key of `SETS`), and the measures of these networks.
MeasuredMethod = tuple[str, Set, Method]


def measured_methods(novelty: NoveltyResult) -> list[MeasuredMethod]:
    """Return every method of an experiment, set by set; originals come first."""
    methods: dict[str, Mapping[Set, Method]] = {"rpg": novelty.rpg, **novelty.baselines}
    # Methods in the order of the other tables, then by name, because JSON keeps no order.
    known = [kind for kind in kinds() if kind in methods]
    ordered = known + sorted(set(methods) - set(known), key=str.lower)
    return [
        ("originals", "all", novelty.original),
        *(
            (label_set(label(kind), key), key, methods[kind][key])
            for kind in ordered
            for key in SETS
            if key in methods[kind]
        ),
    ]


def beaten_by(key: Set, measures: Method, networks: list[MeasuredMethod], kind: MetricKind = PERCENT) -> int:
    """Count methods without RPG that are at least as accurate and as far from the zoo, on the set `key`.

    `measures` belong to the compared method.
    """
    # Without task codes all networks are for one task, also those between its training runs.
    return sum(
        kind.rank(other.mean) >= kind.rank(measures.mean) and other.distance >= measures.distance
        for name, rival, other in networks
        if other is not measures and not name.startswith(label("rpg")) and (rival in (key, "all") or key == "all")
    )


def zoo_baselines(name: str, novelty: NoveltyResult, kind: MetricKind = PERCENT) -> str:
    """Return the section that compares all methods on an experiment's zoo by accuracy and distance."""
    if "distance" not in novelty.zoo:
        return ALONE.format(name=name)
    networks = measured_methods(novelty)
    rows = [
        {
            "networks": label,
            "n": measures.n,
            "mean ± std": mean(measures, kind),
            "verdict": "-" if measures.verdict == "original" else measures.verdict,
            "distance": f"{measures.distance:.2f}",
            "beaten by": beaten_by(key, measures, networks, kind),
            **{f"> {tau}": f"{share:.2f}" for tau, share in measures.novel.items()},
        }
        for label, key, measures in networks
    ]
    accurate = f"{novelty.rule.accurate:.0%}"
    found = novelty.symmetries
    # Adapters have no units.
    matched = MATCHED if found is None or found.permutations or found.low_rank else UNMATCHED
    return MIXTURES.format(name=name, unit=novelty.zoo["distance"], accurate=accurate, matched=matched) + table(rows)


def write_tables(params: Params, results: Path, into: Path | None = None) -> None:
    """Write all files of this module into the folder `into`, by default `results`."""
    into = into or results
    timings = read_timings(params, results)
    experiments = metrics(params, results, timings)
    text, found = ablations(params, params.ablations_to_run(), results)
    write_text(into / "tables.md", markdown(experiments.experiments) + text)
    extra = {"ablations": {name: result.tree() for name, result in found.items()}} if found else {}
    write_json(into / "metrics.json", {**experiments.tree(), **extra})
    for name, entry in experiments.experiments.items():
        write_text(Paths(name, into).card, card(name, params.experiment(name), entry))
    write_text(into / "scores.csv", scores(params, results).to_csv(index=False))
    write_text(into / "novelty.csv", novelty_rows(params, results).to_csv(index=False))
    times = seconds(timings)
    write_json(into / "seconds.json", times)
    rows = [
        {
            "network": name,
            **{
                column: f"{entry['seconds'][stage]:.3f}" if stage in entry["seconds"] else ""
                for stage, column in ((step.name, step.seconds_column) for step in STAGES.values())
                if column
            },
        }
        for name, entry in times["experiments"].items()
    ]
    write_text(into / "seconds.md", "# Measured times\n\n" + table(rows))
