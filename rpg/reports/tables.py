"""The tables of all experiments in `run:`: `rpg tables`.

Writes results/tables.md and metrics.json, scores.csv (one row per network) and novelty.csv (one row per network that
was measured for it) and a model card for each experiment, the same bytes in every run, and results/seconds.json and
seconds.md, the measured times. Scores are over all samples and all originals.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rpg.config.params import Params
from rpg.evaluation.results import Metrics, NoveltyResult, Scores
from rpg.evaluation.score import SETS
from rpg.paths import Paths, ablation_file
from rpg.reports.artifacts import AblationResult
from rpg.reports.model_cards import card
from rpg.reports.published import PUBLISHED, SOURCES
from rpg.stages import STAGES
from rpg.tasks.config import ReportSection
from rpg.tasks.registry import task_blocks
from rpg.utils.artifacts import Seconds
from rpg.utils.files import read_json, read_sealed, verified_file, write_json, write_text

HEADING = """# Generated networks beside the originals they learned from

{metrics} in percent on the test split, over all n networks; ± is the standard deviation, brackets hold the mean's 95 %
bootstrap interval, for which whole training runs, or whole tasks, are drawn. What RPG samples for the same run and task
differs by its noise alone, which changes little: all of it counts in n and ±, and as one in the interval.

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
so that 1 is the standard deviation of a tensor's weights. *Distance* is to the nearest checkpoint of the zoo, its units
permuted to match; of an original, to the nearest of other training runs. *Residual* is the distance to the nearest
affine combination of these checkpoints. *IoU* is that of the wrong answers, *disagreement* the percentage of different
answers, each with the nearest original for the same task, of other training runs for an original. *Ensemble* is the
accuracy of a vote of samples, and of as many originals, of all runs in turn. What is answered is the class of an image;
of segmentation the class of a pixel, at 16 × 16 places of each image; of detection the class of the surest box that
overlaps an object's by half.

Samples are a *replica* if their distance is under {copy} of the originals', otherwise an *interpolation* if their
residual is under {combined} of their distance, otherwise again a *replica*, with something added, if their distance is
under {near} of the originals', otherwise *inaccurate* if they have less than {accurate} of the originals' accuracy, and
else *novel*.

"""
ALONE = """
## {name}: what else can be made of its zoo

The zoo has one checkpoint alone: there is no distance between checkpoints that others could be measured by.

"""
MIXTURES = """
## {name}: what else can be made of its zoo

Distances are in units of the zoo's median nearest distance, {unit:.4f}. Those of RPG and of the originals are with the
networks' units permuted to match; the other rows' are not, which makes them no smaller. *Beaten by* counts the other
rows for the same tasks, RPG's own left out, that are as accurate and as far from the zoo, both. The last columns have
the fraction of networks that reach {accurate} of the originals' mean accuracy and are farther from the zoo than so many
units. Saves of one run are very near to each other: where a run has several, {unit:.4f} is little.

"""

# In the order of the table; an experiment may lack some.
METHODS = {
    "original": "trained for the task",
    "rpg": "RPG",
    "untuned": "RPG, not tuned",
    "hypernetwork": "hypernetwork, task loss only",
    "ridge_pairs": "ridge regression, pairs of bits",
    "ridge": "ridge regression, bits",
    "nearest_task": "weights of the nearest seen task",
    "mean_network": "mean of the seen networks",
    "majority_class": "majority class",
}


def metrics(params: Params, results: Path) -> dict[str, Any]:
    """metrics.json: one entry per experiment in `run:`, its task, its own metrics.json and its novelty.json."""

    def entry(name: str) -> dict[str, Any]:
        paths, command = Paths(name, results), f"rpg score --experiment {name}"
        scored = read_json(
            verified_file(paths.file("score.metrics"), paths.file("score.scores"), command), command, Metrics
        )
        novelty = read_sealed(paths.file("novelty.summary"), f"rpg novelty --experiment {name}", NoveltyResult)
        del novelty["files"]
        # Scored on every task where the score stage did, else as measured beside the zoo.
        baselines = {**novelty["baselines"], **scored.get("baselines", {})}
        return {"task": params.experiment(name).task.kind, **scored, "novelty": novelty, "baselines": baselines}

    return {"experiments": {name: entry(name) for name in params.experiments_to_run()}}


def scores(params: Params, results: Path) -> pd.DataFrame:
    """scores.csv: one row per network, original or RPG, of every experiment in `run:`, with its scores in percent."""
    rows = [
        {
            "experiment": name,
            "networks": labelled(networks, "between" if "between" in entry else "all"),
            **{key: entry[key] for key in ("file", "validation", "test")},
        }
        for name in params.experiments_to_run()
        for kind, networks in (("original", "original"), ("rpg", "RPG"))
        for entry in read_sealed(Paths(name, results).file("score.scores"), f"rpg score --experiment {name}", Scores)[
            kind
        ]
    ]
    return pd.DataFrame(rows)


def novelty_rows(params: Params, results: Path) -> pd.DataFrame:
    """novelty.csv: one row per measured network of every experiment, distances in units of the zoo's median."""
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


def seconds(params: Params, results: Path) -> dict[str, Any]:
    """seconds.json: seconds of each training and seconds per sample, as they were measured."""
    experiments = {
        name: {
            "seconds": {
                stage: read_sealed(Paths(name, results).file(f"{stage}.seconds"), f"rpg {stage}", Seconds)["seconds"]
                for stage in params.experiment(name).timed()
            }
        }
        for name in params.experiments_to_run()
    }
    return {"experiments": experiments}


def markdown(tree: dict[str, Any]) -> str:
    """tables.md from metrics.json: the columns of the paper's Table 1, then unseen tasks, novelty and the baselines."""
    experiments = tree["experiments"]
    rows = [
        {
            "network": name,
            "metric": entry["metric"],
            "parameters": f"{entry['parameters']:,}",
            **beside_originals(entry),
        }
        for experiment, entry in experiments.items()
        for name, entry in [
            (experiment, entry),
            *([(labelled(experiment, "between"), {**entry, "rpg": entry["between"]})] if "between" in entry else []),
        ]
    ]
    names = sorted({entry["metric"] for entry in experiments.values()})
    return (
        HEADING.format(metrics=", ".join(names))
        + table(rows)
        + "".join(unseen_tasks(name, entry) for name, entry in experiments.items() if "held_out" in entry)
        + task_sections(experiments)
        + beside_published(experiments)
        + are_they_new(experiments)
        + "".join(zoo_baselines(name, entry) for name, entry in experiments.items())
    )


def beside_originals(of: dict[str, Any]) -> dict[str, Any]:
    """The columns of the paper's tables, from the summaries of `original` and of `rpg`."""
    original, rpg = of["original"], of["rpg"]
    return {
        "original mean ± std": mean(original),
        "original best": f"{original['best']:.2f}",
        "original n": original["n"],
        "RPG mean ± std": mean(rpg),
        "RPG min": f"{rpg['min']:.2f}",
        "RPG best": f"{rpg['best']:.2f}",
        "RPG n": rpg["n"],
    }


def mean(of: dict[str, Any]) -> str:
    """Mean ± standard deviation, and the mean's interval."""
    low, high = of["interval"]
    return f"{of['mean']:.2f} ± {of['std']:.2f} [{low:.2f}, {high:.2f}]"


def unseen_tasks(name: str, entry: dict[str, Any]) -> str:
    """The section of an experiment with task codes: the networks trained for the task, RPG, and every baseline."""
    kinds = {"original": entry["original_by_set"], "rpg": entry, **entry["baselines"]}
    sets = [key for key in SETS if key in entry["original_by_set"]]

    def row(kind: str, of: dict[str, Any]) -> dict[str, Any]:
        cells = {"networks": METHODS[kind]}
        for key in sets:
            cells |= {
                f"{SETS[key]} mean ± std": mean(of[key]),
                f"{SETS[key]} min": f"{of[key]['min']:.2f}",
                f"{SETS[key]} best": f"{of[key]['best']:.2f}",
                f"{SETS[key]} n": of[key]["n"],
            }
        return cells

    rows = [row(kind, kinds[kind]) for kind in METHODS if kind in kinds]
    return f"\n## {name}: tasks seen and never seen\n\n{table(rows)}"


def task_sections(experiments: dict[str, Any]) -> str:
    """The sections that the benchmarks of these experiments add, each once, in the order of the experiments."""
    sections: list[ReportSection] = []
    for kind in dict.fromkeys(entry["task"] for entry in experiments.values()):
        section = task_blocks()[kind].report_section(experiments)
        if section and section not in sections:
            sections.append(section)
    return "".join(
        section.text + table([{**columns, **beside_originals(of)} for columns, of in section.rows])
        for section in sections
    )


def beside_published(experiments: dict[str, Any]) -> str:
    """The section of the paper's own experiments: what was measured here, and what was published of them."""
    rows = []
    for name, entry in experiments.items():
        measured_here = {entry["metric"]: entry, **entry.get("others", {})}
        known = PUBLISHED.get(name, ())
        for metric in dict.fromkeys(row.metric for row in known):
            of = measured_here[metric]
            # Unseen tasks are what that experiment is about.
            original, rpg = (
                of.get("original_by_set", {}).get("held_out", of["original"]),
                of.get("held_out", of["rpg"]),
            )
            numbers = (original["mean"], rpg["best"], rpg["mean"], rpg["min"])
            rows.append(_published(name, metric, "RPG, here", numbers, f"n = {rpg['n']}"))
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
    cells = {column: "-" if of is None else f"{of:.1f}" for column, of in zip(columns, numbers, strict=True)}
    return {"network": name, "metric": metric, "method": method, **cells, "note": note}


def are_they_new(experiments: dict[str, Any]) -> str:
    """The section with a verdict on the samples of each experiment, and of each set of its tasks."""
    rows = []
    for name, entry in experiments.items():
        novelty = entry["novelty"]
        # What an original is to other training runs, where there are some.
        zoo = {**novelty["zoo"], "aligned": novelty["zoo"].get("aligned_across", novelty["zoo"].get("aligned"))}
        for key in (key for key in SETS if key in novelty["rpg"]):
            of = novelty["rpg"][key]
            rows.append(
                {
                    "samples": labelled(name, key),
                    "n": of["n"],
                    "verdict": of["verdict"],
                    "distance: sample / original": beside("aligned", 4, of["median"], zoo),
                    "residual: sample / original": beside("residual", 4, of["median"], zoo),
                    "IoU: sample / original": beside("iou", 2, of["median"], zoo),
                    "disagreement: sample / original": beside("disagreement", 1, of["median"], zoo),
                    "ensemble: samples / originals": ensemble(of.get("ensemble", {})),
                }
            )
    rule = next(iter(experiments.values()))["novelty"]["rule"]
    return NOVELTY.format(**{**rule, "accurate": f"{rule['accurate']:.0%}"}) + table(rows)


def labelled(name: str, key: str) -> str:
    """A name with the set of networks that is meant."""
    return name if key == "all" else f"{name}, {SETS[key]}"


def ensemble(of: dict[str, Any]) -> str:
    """The accuracies of two ensembles."""
    return f"{of['rpg']:.1f} / {of['original']:.1f}" if of else "-"


def beside(column: str, digits: int, *medians: dict[str, float]) -> str:
    """A column's medians, one after the other; a dash where there is none."""
    return " / ".join(f"{of[column]:.{digits}f}" if of.get(column) is not None else "-" for of in medians)


# A way to make networks as the tables call it, the set of networks (`SETS`), and what was measured of them.
Measured = tuple[str, str, dict[str, Any]]


def measured(entry: dict[str, Any]) -> list[Measured]:
    """Every way to make networks of an experiment's zoo, set by set; originals first."""
    novelty = entry["novelty"]
    methods = {"rpg": novelty["rpg"], **novelty["baselines"]}
    # In the order of the other tables, then by name: JSON keeps no order.
    known = [kind for kind in METHODS if kind in methods]
    kinds = known + sorted(set(methods) - set(known), key=str.lower)
    return [
        ("originals", "all", novelty["original"]),
        *(
            (labelled(str(METHODS.get(kind, kind)), key), key, methods[kind][key])
            for kind in kinds
            for key in SETS
            if key in methods[kind]
        ),
    ]


def beaten_by(key: str, of: dict[str, Any], networks: list[Measured]) -> int:
    """How many ways without RPG make networks of the set `key` both as accurate as those of `of` and as far away."""
    # Where there is but one task, all networks are for it, those between its training runs, too.
    return sum(
        other["mean"] >= of["mean"] and other["distance"] >= of["distance"]
        for name, rival, other in networks
        if other is not of and not name.startswith(METHODS["rpg"]) and (rival in (key, "all") or key == "all")
    )


def zoo_baselines(name: str, entry: dict[str, Any]) -> str:
    """The section with what else can be made of an experiment's zoo, accuracy beside distance."""
    if "distance" not in entry["novelty"]["zoo"]:
        return ALONE.format(name=name)
    novelty, networks = entry["novelty"], measured(entry)
    rows = [
        {
            "networks": label,
            "n": of["n"],
            "mean ± std": mean(of),
            "distance": f"{of['distance']:.2f}",
            "beaten by": beaten_by(key, of, networks),
            **{f"> {tau}": f"{share:.2f}" for tau, share in of["novel"].items()},
        }
        for label, key, of in networks
    ]
    accurate = f"{novelty['rule']['accurate']:.0%}"
    return MIXTURES.format(name=name, unit=novelty["zoo"]["distance"], accurate=accurate) + table(rows)


def ablation(name: str, question: str, of: str, tree: dict[str, Any]) -> str:
    """The section of an ablation `of` an experiment: a row for each variant, and each set of its tasks."""
    rows = []
    for entry in tree["variants"]:
        # In the order of the other tables: JSON keeps none.
        for key in (key for key in SETS if key in entry["sets"]):
            scored = entry["sets"][key]
            row = {
                "variant": labelled(entry["variant"], key),
                "RPG parameters": f"{entry['parameters']:,}",
                "original mean ± std": mean(scored["original"]),
                "original n": scored["original"]["n"],
                "RPG mean ± std": mean(scored["rpg"]),
                "by seed": ", ".join(f"{value:.2f}" for value in scored["by_seed"]),
                "RPG min": f"{scored['rpg']['min']:.2f}",
                "RPG best": f"{scored['rpg']['best']:.2f}",
                "RPG n": scored["rpg"]["n"],
            }
            if "novelty" in scored:
                found = scored["novelty"]
                row["distance: sample / original"] = f"{found['rpg']:.4f} / {found['original']:.4f}"
                row["verdict"] = found["verdict"]
            rows.append(row)
    return f"\n## {name}, of {of}\n\n{question}\n\n{table(rows)}"


def ablations(params: Params, names: list[str], results: Path) -> tuple[str, dict[str, Any]]:
    """The sections of several ablations, and what they are made of."""
    trees = {
        name: read_sealed(ablation_file(name, results), f"rpg ablation --experiment {name}", AblationResult)
        for name in names
    }
    text = "".join(
        ablation(name, params.ablation(name).question, params.ablation(name).experiment, tree)
        for name, tree in trees.items()
    )
    return text, trees


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, numbers to the right."""
    frame = pd.DataFrame(rows)
    return (
        frame.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (frame.shape[1] - 1))
        + "\n"
    )


def write_tables(params: Params, results: Path, into: Path | None = None) -> None:
    """Write all tables, as listed above, into the folder `into`, or `results`."""
    into = into or results
    tree = metrics(params, results)
    text, found = ablations(params, params.ablations_to_run(), results)
    write_text(into / "tables.md", markdown(tree) + text)
    write_json(into / "metrics.json", {**tree, "ablations": found} if found else tree)
    for name, entry in tree["experiments"].items():
        write_text(Paths(name, into).card, card(name, params.experiment(name), entry))
    write_text(into / "scores.csv", scores(params, results).to_csv(index=False))
    write_text(into / "novelty.csv", novelty_rows(params, results).to_csv(index=False))
    times = seconds(params, results)
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
