"""Format the tables of ablations: the variants of RPG, and the rivals without RPG."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rpg.config.params import Params
from rpg.evaluation.methods import METHODS, RECOUNTED, label
from rpg.evaluation.score import SETS
from rpg.paths import ablation_file
from rpg.reports.artifacts import AblationResult, RivalSet
from rpg.reports.formatting import label_set, mean, outcome, points, table
from rpg.utils.files import read_sealed
from rpg.utils.metric import PERCENT, MetricKind


def ablation(name: str, question: str, experiment: str, result: AblationResult) -> str:
    """Return the section of an ablation of `experiment`: one row per variant and set of tasks."""
    rows, kind = [], result.metric_kind
    for variant in result.variants:
        # The sets in the order of the other tables, because JSON keeps no order.
        for key in (key for key in SETS if key in variant.sets):
            scored = variant.sets[key]
            row = {
                "variant": label_set(variant.variant, key),
                "RPG parameters": f"{variant.parameters:,}",
                "original mean ± std": mean(scored.validation.original, kind),
                "RPG mean ± std": mean(scored.validation.rpg, kind),
                "by seed": _by_seed(scored.by_seed, kind),
                "RPG min": kind.text(scored.validation.rpg.min),
                "RPG n": scored.validation.rpg.n,
                "RPG mean ± std, test": mean(scored.test.rpg, kind),
            }
            if scored.recounted:
                row["BatchNorm recounted"] = mean(scored.recounted, kind)
            if distances := scored.novelty:
                other = "-" if distances.original is None else f"{distances.original:.4f}"
                row["distance: sample / original"] = f"{distances.rpg:.4f} / {other}"
                row["verdict"] = distances.verdict
            rows.append(row)
    return (
        f"\n## {name}, of {experiment}\n\n{question}{_units(kind)}\n\n{table(rows)}{_rivals(result)}"
        f"{_wanted(result)}{_prompts(result)}"
    )


def _wanted(result: AblationResult) -> str:
    """Return the table of asked and got numbers: one row per variant, vector and set of states, and the baselines."""
    rows = []
    for index, variant in enumerate(result.variants):
        for one in variant.wanted or ():
            if not one.method.startswith("rpg") and index:
                continue
            # The variants differ in RPG; the baselines are the same for all.
            method = one.method.replace("rpg", variant.variant, 1).replace("_corrected", ", corrected")
            row = {"networks": method.replace("_", " "), "asked": one.vector, "states": one.set.replace("_", "-")}
            row["n"] = str(one.n)
            for split, of in (("validation", one.validation), ("test", one.test)):
                interval = f" [{of.interval[0]:.2f}, {of.interval[1]:.2f}]" if of.interval else ""
                row[f"correlation, {split}"] = f"{of.correlation:.3f}"
                row[f"error, {split}"] = f"{of.error:.2f}{interval}"
            rows.append(row)
    if not rows:
        return ""
    return f"\nAsked and got, as in wanted.md of the experiment:\n\n{table(rows)}"


def _prompts(result: AblationResult) -> str:
    """Return the table of prompts below the ablation's heading, if there is one."""
    return f"\n{result.prompts.replace('## ', '### ').replace('# ', '### ', 1)}" if result.prompts else ""


def _units(kind: MetricKind) -> str:
    """Return the sentence on a metric that is no percentage, or of which lower is better."""
    if kind == PERCENT:
        return ""
    return f" Scores are {kind.in_unit}{', and lower is better: *min* is the largest' if kind.lower_is_better else ''}."


def _by_seed(scores: Sequence[float], kind: MetricKind) -> str:
    return ", ".join(map(kind.text, scores))


def _rivals(result: AblationResult) -> str:
    """Return the table of the methods without RPG, and a sentence for each set of tasks that says which method wins."""
    if not result.rivals:
        return ""
    rows = [
        {
            "networks": label_set(label(rival.kind), key),
            "mean ± std": mean(scored.validation, result.metric_kind),
            "by seed": _by_seed(scored.by_seed, result.metric_kind),
            "mean ± std, test": mean(scored.test, result.metric_kind),
            f"RPG ({result.best}) − it, test": points(scored.above, result.metric_kind),
        }
        for key in SETS
        for rival in result.rivals
        if (scored := rival.sets.get(key))
    ]
    return f"\n{table(rows)}\n" + "".join(f"{line}\n" for line in conclusions(result))


def conclusions(result: AblationResult) -> Iterator[str]:
    """Yield one sentence per set of tasks: whether RPG wins, against the rival that is best on the test split.

    The networks that were trained for the task are the originals, and no rival.
    """
    for key in SETS:
        rivals = [(rival.kind, rival.sets[key]) for rival in result.rivals if key in rival.sets]
        rivals = [(kind, scored) for kind, scored in rivals if not kind.startswith("original")]
        if rivals:
            yield f"- {SETS[key]}: {_outcome(result, rivals)}"
            # RPG without labels may lose to a method with labels, and still be the best of its kind.
            known = [(kind, scored) for kind, scored in rivals if METHODS[kind.removesuffix(RECOUNTED)].knows == "zoo"]
            if len(known) < len(rivals):
                yield f"- {SETS[key]}, beside rivals that know the zoo alone: {_outcome(result, known)}"


def _outcome(result: AblationResult, rivals: Sequence[tuple[str, RivalSet]]) -> str:
    metric_kind = result.metric_kind
    kind, scored = max(rivals, key=lambda rival: metric_kind.rank(rival[1].test.mean))
    unit = "points" if metric_kind.is_percent else metric_kind.in_unit
    wins, above = outcome(scored.above, metric_kind), f"{points(scored.above, metric_kind)} {unit}"
    return f"{wins}. The best rival is *{label(kind)}*; RPG ({result.best}) minus it is {above}."


def ablations(params: Params, names: list[str], results: Path) -> tuple[str, dict[str, AblationResult]]:
    """Return the sections of several ablations, and the ablations' results by name."""
    found = {
        name: read_sealed(ablation_file(name, results), f"rpg ablation --experiment {name}", AblationResult)
        for name in names
    }
    text = "".join(
        ablation(name, params.ablation(name).question, params.ablation(name).experiment, result)
        for name, result in found.items()
    )
    return text, found
