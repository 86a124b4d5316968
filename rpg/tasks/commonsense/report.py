"""The section of results/tables.md about the commonsense subtasks: the paper's Table 3, by both protocols."""

from collections.abc import Mapping

from rpg.tasks.commonsense.questions import LIKELIHOOD, SUBTASKS
from rpg.tasks.config import ReportSection
from rpg.utils.artifacts import Compared, Reported

TEXT = """
## Commonsense reasoning, subtask by subtask

Accuracy in percent on the test questions. *Generated*: the model goes on from the prompt, and the choice that its words
name first is its answer, as LLM-Adapters and DoRA evaluate. *Likelihood*: its answer is the choice for which "the
correct answer is ..." is the most likely. *Alone* is the language model without an adapter.

"""


def section(experiments: Mapping[str, Reported]) -> ReportSection | None:
    """Return the section with a row for each adapter, protocol and subtask; None without adapters."""
    rows = []
    for name, entry in experiments.items():
        if entry.task != "commonsense":
            continue
        kinds: dict[str, Compared] = {entry.metric: entry, **entry.others}
        for protocol, form in (("generated", "{}"), ("likelihood", LIKELIHOOD)):
            for metric in (*SUBTASKS.values(), entry.metric):
                if (of := kinds.get(form.format(metric))) and of.base_model:
                    alone = f"{of.base_model.mean:.2f}"
                    rows.append(({"network": name, "protocol": protocol, "subtask": metric, "alone": alone}, of))
    return ReportSection(TEXT, rows) if rows else None
