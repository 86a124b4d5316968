"""The model card of a packed generator, in Hugging Face's format."""

from typing import Any

from huggingface_hub import ModelCardData

from rpg.generator.trained import TrainedRPG
from rpg.tasks.cards import eval_result
from rpg.utils.artifacts import ScoreSummary

CARD = """---
{front}
---

# {name}: a generator of networks

This is a trained RPG (recurrent diffusion for parameter generation,
[arXiv 2501.11587](https://arxiv.org/abs/2501.11587)). It learned from {checkpoints} checkpoints of {runs} training runs
and generates new networks for {data}, with {weights:,} weights each. The zoo of checkpoints is not needed.

## Use

```python
from rpg import Generator

generator = Generator.from_pretrained("FOLDER")
state_dict = generator.generate({request})
```

{network}

## What can be asked for?

{conditions}
{scores}
## Limits

Made to study weight generation. A generated network inherits what the zoo's networks get wrong.
"""
SCORES = """
## Scores

{metric} on the test split, over all networks:

| networks | mean | worst | best | n |
|:--|--:|--:|--:|--:|
{rows}
"""


def card(trained: TrainedRPG, metric: str = "", scores: dict[str, ScoreSummary] | None = None) -> str:
    """Return the card; `scores` maps a kind of networks, `originals` and sets of samples, to their summary."""
    task, text = trained.task, trained.task.metric_kind.text
    results = [
        eval_result(task, name, name.replace(" ", "-"), f"mean {metric} of generated networks", summary.mean)
        for name, summary in (scores or {}).items()
        if name != "originals"
    ]
    front = ModelCardData(
        license="apache-2.0",
        library_name="rpg",
        pipeline_tag=task.pipeline_tag,
        tags=["rpg", "weight-generation"],
        model_name=trained.name,
        eval_results=results or None,
    )
    rows = "\n".join(
        f"| {name} | {text(of.mean)} | {text(of.min)} | {text(of.best)} | {of.n} |"
        for name, of in (scores or {}).items()
    )
    return CARD.format(
        front=front.to_yaml().strip(),
        name=trained.name,
        checkpoints=len(next(iter(trained.table.values.values()))),
        runs=trained.states,
        data=task.dataset_title,
        weights=trained.weights,
        request=_request(trained),
        network=task.how_to_build,
        conditions="\n".join(f"- {line}" for line in _conditions(trained.vocabulary())) or "Nothing but a seed.",
        scores=SCORES.format(metric=task.metric_kind.label(metric), rows=rows) if scores else "",
    )


def _request(trained: TrainedRPG) -> str:
    """Return the arguments of an example."""
    if trained.encoder:
        return "images=images, labels=labels, seed=1"
    if trained.takes_questions:
        return "prompts=questions, seed=1"
    return "classes=[3, 8], seed=1" if trained.task.classes else "seed=1"


def _conditions(vocabulary: dict[str, Any]) -> list[str]:
    lines = []
    for name, choices in vocabulary.items():
        if name == "permutation_state":
            lines.append(f"`state`: a training run of the zoo, 0 to {choices - 1}, or several to mix")
        elif name == "task_code":
            lines.append(f"`classes`: some of {', '.join(choices)}; or `code`, one 0 or 1 for each of them")
        elif name == "prompts":
            lines.append(f"`prompts`: 1 to {choices} questions of a task, without answers")
        elif name == "images":
            shape = ", ".join(map(str, choices))
            lines.append(f"`images` [n, {shape}] and `labels` [n], 0 for no and 1 for yes: the task")
        else:
            ranges = ", ".join(f"{low:g} to {high:g}" for low, high in choices)
            lines.append(f"`vectors={{'{name}': ...}}`: in the zoo {ranges}")
    return lines
