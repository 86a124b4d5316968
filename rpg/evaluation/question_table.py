"""The table of `rpg prompts` for questions: RPG and its rivals for the same held-out tasks, prompts.md."""

from collections.abc import Sequence

import pandas as pd

from rpg.evaluation.intervals import difference
from rpg.evaluation.prompt_table import PromptTrial, cell, score_sample

HEADING = """# Adapters for questions

Accuracy on the test questions of the held-out tasks, in percent: mean [95 % interval over the tasks{of}], minimum. A
prompt has *n* questions of the task, without answers. *New* are the tasks about something that no seen task asks about,
with n = {most}. Seconds are those of one prompt of n = {most}, or of the training, on {device}; those of the language
model with answered questions are for its answers to all test questions. A cell of another n names it. *Knows* is what a
method reads of the held-out task. The answer of the language model without an adapter is the likeliest choice, because
it does not know the names of the choices; an adapter's answer is the choice that the text names.

"""
# Method → its name, and what it reads of the held-out task.
METHODS = {
    "trained": ("adapter trained for the task", "questions and answers"),
    "rpg": ("RPG", "questions"),
    "hypernetwork": ("hypernetwork, task loss only", "questions"),
    "ridge_questions": ("ridge regression from the questions' features to the weights", "questions"),
    "nearest_questions": ("adapter of the seen task with the nearest questions", "questions"),
    "soup": ("mean of the adapters with the nearest questions", "questions"),
    "together": ("one adapter, trained on all seen tasks", "nothing"),
    "mean_network": ("mean of all adapters", "nothing"),
    "in_context": ("language model, n answered questions before each", "n questions and answers"),
    "alone": ("language model alone", "nothing"),
}
# Methods that each training of RPG makes anew, and methods that read answers.
TRAINED, WITH_ANSWERS = ("rpg", "hypernetwork"), ("trained", "in_context")


def question_table(trials: Sequence[PromptTrial], device: str) -> str:
    """Return the text of prompts.md over all trainings of RPG."""
    rows = pd.concat([trial.rows.assign(training=index) for index, trial in enumerate(trials)], ignore_index=True)
    rows = rows[rows["method"].isin(TRAINED) | (rows["training"] == 0)]
    counts = sorted(count for count in rows["questions"].unique() if count)
    most = counts[-1]
    seconds = {(entry["method"], entry["questions"]): entry["seconds"] for entry in trials[0].seconds}
    of = " and trainings" if len(trials) > 1 else ""
    columns = [f"n = {count}" for count in counts]
    lines = [f"| adapters | knows | {' | '.join(columns)} | new | seconds |", f"|:--|:--|{'--:|' * (len(columns) + 2)}"]
    for method, (name, knows) in METHODS.items():
        own = rows[rows["method"] == method]
        if own.empty:
            continue
        largest = own["questions"].max()
        if largest:
            cells = [cell(own[own["questions"] == count]) for count in counts]
        else:
            cells = [*[""] * (len(counts) - 1), cell(own)]
        last = [cell(own[own["new"].astype(bool) & (own["questions"] == largest)])]
        last.append(f"{seconds[method, largest]:.3f}" if (method, largest) in seconds else "")
        if 0 < largest < most:
            last = [f"{text} (n = {largest})" if text else "" for text in last]
        lines.append(f"| {name} | {knows} | {' | '.join([*cells, *last])} |")
    table = "\n".join(lines)
    return f"{HEADING.format(of=of, most=most, device=device)}{table}\n\n{_conclusion(rows, counts)}\n"


def _conclusion(rows: pd.DataFrame, counts: Sequence[int]) -> str:
    """Return a sentence for each n: RPG's share of the trained adapters' mean, and the best rival without answers."""
    trained = rows[rows["method"] == "trained"]["test"].mean()
    sentences = []
    for count in counts:
        chosen = rows[rows["questions"].isin((0, count)) & ~rows["method"].isin(WITH_ANSWERS)]
        samples = {str(method): of for method, of in chosen.groupby("method")}
        own = samples.pop("rpg")
        best = max(samples, key=lambda method, of=samples: of[method]["test"].mean())  # type: ignore[misc]
        above, interval = difference(score_sample(own), score_sample(samples[best]))
        low, high = interval or (above, above)
        verdict = "RPG wins" if low > 0 else "RPG loses" if high < 0 else "neither wins"
        mean = own["test"].mean()
        share = f", {100 * mean / trained:.1f} % of the trained adapters' accuracy" if trained else ""
        sentences.append(
            f"n = {count}: RPG has {mean:.2f}{share}. Of the rivals without answers, *{METHODS[best][0]}* is the best."
            f" RPG minus it is {above:+.2f} [{low:+.2f}, {high:+.2f}]: {verdict}."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences)
