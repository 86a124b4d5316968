"""The table of `rpg prompts`: RPG and its rivals on the same support sets, prompts.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rpg.evaluation.intervals import ScoreSample, mean_interval

HEADING = """# Networks for prompts

Accuracy on the test split in percent, over all held-out tasks and support sets: mean [95 % interval over the
tasks{of}], minimum. *k* images show each answer. The images of an answer show its classes in turn; *at random* they do
not, and some classes may be missing. Seconds are those of one support set of k = {middle}, on {device}.
"""
DATA = {
    "own": "Held-out tasks on the data of the zoo",
    "mnist": "Held-out tasks on MNIST, which zoo, training and tuning never saw",
    "hidden": "Held-out classes, which base network, zoo and tuning never saw",
}
# Method → its name. A suffix says how many epochs of fine-tuning on the support set follow.
METHODS = {
    "rpg": "RPG",
    "refined": "RPG, refined through the generator",
    "tuned as long as refined": "RPG, fine-tuned for as many seconds",
    "hypernetwork": "hypernetwork, task loss only",
    "retrieval": "the zoo's network that answers the images best",
    "probe": "logistic regression on the base network's features",
    "prototypes": "nearest class mean of the base network's features",
    "votes": "the base network's classes, each counted as no or yes by the images",
    "base": "base network, head of zeros",
    "random": "random weights",
}
BOUNDS = {
    "trained": "networks trained for the task on all images",
    "told": "RPG that is told the code",
    "lookup": "the base network's answer, looked up in the code",
}
# Methods that each training of RPG makes anew.
OWN = ("rpg", "refined", "tuned as long as refined")
TRAINED = (*OWN, "hypernetwork")


@dataclass(frozen=True)
class PromptTrial:
    """The rows of prompts.csv and the seconds of prompts.json of one training of RPG."""

    rows: pd.DataFrame
    seconds: Sequence[dict[str, Any]]


def prompt_table(trials: Sequence[PromptTrial], device: str, told: pd.DataFrame | None = None) -> str:
    """Return the text of prompts.md over all trainings; `told` has the rows of RPG that is told the code."""
    rows = pd.concat([trial.rows.assign(training=index) for index, trial in enumerate(trials)], ignore_index=True)
    rows = rows[rows["method"].isin(TRAINED) | (rows["training"] == 0)]
    if told is not None:
        rows = pd.concat([rows, told.assign(data="own", method="told", epochs=0, images=0, evenly=True)])
    counts = sorted(count for count in rows["images"].unique() if count)
    middle = counts[len(counts) // 2]
    of = " and trainings" if len(trials) > 1 else ""
    parts = [HEADING.format(of=of, middle=middle, device=device)]
    for data in rows["data"].unique():
        parts.append(f"\n## {DATA[data]}\n\n{_section(rows[rows['data'] == data], trials, data, counts, middle)}")
    return "".join(parts)


def _section(rows: pd.DataFrame, trials: Sequence[PromptTrial], data: str, counts: Sequence[int], middle: int) -> str:
    """Return the table of one data set, and the sentence that says who wins."""
    seconds = {
        (entry["method"], entry["epochs"]): entry["seconds"]
        for entry in trials[0].seconds
        if entry["data"] == data and entry["images"] == middle
    }
    columns = [f"k = {count}" for count in counts]
    lines = [
        f"| networks | {' | '.join(columns)} | k = {middle}, at random | seconds |",
        f"|:--|{'--:|' * (len(columns) + 2)}",
    ]
    for name, label in BOUNDS.items():
        chosen = rows[rows["method"] == name]
        if len(chosen):
            lines.append(f"| *{label}* | {' | '.join([cell(chosen), *[''] * (len(columns) + 1)])} |")
    shown = rows[~rows["method"].isin(BOUNDS)]
    pairs = shown[["method", "epochs"]].drop_duplicates().itertuples(index=False)
    order = [*METHODS]
    for method, epochs in sorted(pairs, key=lambda pair: (_place(pair[0], order), pair[0], pair[1])):
        own = shown[(shown["method"] == method) & (shown["epochs"] == epochs)]
        cells = [cell(own[(own["images"] == count) & own["evenly"]]) for count in counts]
        cells.append(cell(own[(own["images"] == middle) & ~own["evenly"].astype(bool)]))
        spent = seconds.get((method, epochs))
        text = "" if spent is None else f"{spent:.3f}"
        lines.append(f"| {_name(method, epochs)} | {' | '.join(cells)} | {text} |")
    return "\n".join(lines) + f"\n\n{_conclusion(rows, counts)}\n"


def _place(method: str, order: Sequence[str]) -> int:
    return order.index(method) if method in order else len(order)


def _name(method: str, epochs: int) -> str:
    suffix = f", {epochs} epoch{'s' if epochs > 1 else ''}" if epochs else ""
    # The base network after a number of steps is a method of its own.
    return f"{METHODS.get(method, method.replace('base, ', 'base network, ', 1))}{suffix}"


def score_sample(rows: pd.DataFrame) -> ScoreSample:
    """Return the test scores of rows, by task and, if there are several, by training."""
    trainings = rows["training"].tolist() if rows["training"].nunique() > 1 else ()
    return ScoreSample(rows["test"].tolist(), rows["code"].tolist(), trainings)


def cell(rows: pd.DataFrame) -> str:
    """Return mean, interval over tasks and trainings, and minimum."""
    if rows.empty:
        return ""
    scores, interval = rows["test"].tolist(), mean_interval(score_sample(rows))
    between = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
    return f"{sum(scores) / len(scores):.2f}{between}, {min(scores):.1f}"


def _conclusion(rows: pd.DataFrame, counts: Sequence[int]) -> str:
    """Return one sentence for each k: RPG's share of the trained networks' mean, and the best rival."""
    trained = rows[rows["method"] == "trained"]["test"].mean()
    sentences = []
    for count in counts:
        chosen = rows[(rows["images"] == count) & rows["evenly"]]
        pairs = chosen[["method", "epochs"]].drop_duplicates().itertuples(index=False)
        means = {
            (method, epochs): chosen[(chosen["method"] == method) & (chosen["epochs"] == epochs)]["test"].mean()
            for method, epochs in pairs
        }
        own = means[("rpg", 0)]
        rivals = {pair: mean for pair, mean in means.items() if pair[0] not in OWN}
        method, epochs = max(rivals, key=lambda pair: rivals[pair])
        score = rivals[method, epochs]
        verdict = "RPG is above all rivals" if own > score else "RPG loses"
        sentences.append(
            f"k = {count}: RPG has {100 * own / trained:.1f} % of the trained networks' accuracy. {verdict}: the best,"
            f" *{_name(method, epochs)}*, has {score:.2f}, RPG {own:.2f}."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences)
