"""Model cards in Hugging Face's format for the samples of an experiment.

`rpg tables` writes each card to results/<experiment>/README.md.
"""

from huggingface_hub import ModelCardData

from rpg.config.experiment import Experiment
from rpg.evaluation.score import SETS
from rpg.reports.artifacts import ExperimentResult
from rpg.tasks.cards import eval_result
from rpg.utils.artifacts import ScoreSummary
from rpg.utils.metric import PERCENT, MetricKind

METRICS = {"top1": "top-1 accuracy"}
CARD = """---
{front}
---

# {name}: {network} networks for {data}, sampled by RPG

The {n} state dicts in `samples/` were not trained. They were sampled by RPG (recurrent diffusion for parameter
generation, [arXiv 2501.11587](https://arxiv.org/abs/2501.11587)), which had learned from {checkpoints} checkpoints of
{runs} training runs of the same network{tuned}. `samples/manifest.json` lists them with
their hashes, and what each was asked for.

## Use

```python
{use}
```

{answer}

## Scores

The {metric} {unit} on the test split, {split}, over all
networks: mean with its 95 % interval, {range}.

{scores}

## Are they new?

{novelty}

## Limits

Made to study weight generation, on a task that needs no generated network. A sample inherits what its zoo's networks
get wrong. To make the same files: `snakemake --cores all results/{name}/samples/manifest.json`.
"""
VERDICTS = {
    "replica": "nearer to a checkpoint of the zoo than another training run would be, in all or in part copies of one",
    "interpolation": "for the most part combinations of checkpoints of the zoo",
    "inaccurate": "far from every checkpoint of the zoo, and less accurate than they are",
    "novel": "about as far from the checkpoints as these are from each other, no combination of them, and accurate",
    "as noise": "as far from the checkpoints as noise that leaves them as accurate: the distance proves nothing",
    "no scale": "not to be judged: the zoo's training runs are nearer to each other than noise that changes nothing",
    "one run": "not to be judged: the zoo has one training run",
}
# The verdict has a further reason where a metric may have scores that are not positive.
NO_SHARE = f"{VERDICTS['no scale']}, or a score is not positive, so that no share of the originals' score exists"


def card(name: str, experiment: Experiment, entry: ExperimentResult) -> str:
    """Return the card of an experiment from the experiment's entry in metrics.json."""
    task = experiment.task
    text = task.card(name, adapters=experiment.tokens.canonical is not None)
    metric = METRICS.get(entry.metric, entry.metric)
    by_set = {"all": entry.rpg, **entry.by_set()}
    sets = {key: by_set[key] for key in SETS if key in entry.novelty.rpg}
    front = ModelCardData(
        license="apache-2.0",
        library_name=text.library,
        pipeline_tag=task.pipeline_tag,
        tags=["rpg", "weight-generation"],
        model_name=name,
        eval_results=[
            eval_result(task, SETS[key], key, f"mean {metric} of all samples", scores.mean)
            for key, scores in sets.items()
        ],
    )
    rows = ["| networks | mean | interval | min | best | n |", "|:--|--:|--:|--:|--:|--:|"]
    rows += [
        _row("originals", entry.original, entry.metric_kind),
        *(_row(f"samples, {SETS[key]}", scores, entry.metric_kind) for key, scores in sets.items()),
    ]
    meanings = VERDICTS if entry.metric_kind == PERCENT else {**VERDICTS, "no scale": NO_SHARE}
    verdicts = [
        f"- {SETS[key]}: **{scores.verdict}**, that is, {meanings[scores.verdict]}."
        for key in SETS
        if (scores := entry.novelty.rpg.get(key))
    ]
    learned = [run for run in experiment.runs().values() if not run.held_out]
    return CARD.format(
        front=front.to_yaml().strip(),
        name=name,
        network=text.network,
        data=task.dataset_title,
        n=sum(scores.n for scores in sets.values()),
        # Only the scores tell the number of checkpoints of a given zoo, which has no held-out ones.
        checkpoints=entry.original.n if experiment.zoo.saves is None else len(learned) * experiment.zoo.saves,
        runs=len(learned),
        tuned=", and was then tuned on training images" if experiment.tune else "",
        use=text.use,
        answer=text.answer,
        split=text.split,
        metric=metric,
        unit=entry.metric_kind.in_unit,
        range="largest (min, the worst) and smallest (best)" if entry.lower_is_better else "smallest and largest",
        scores="\n".join(rows),
        novelty="By the rule that results/tables.md states, the samples are\n\n" + "\n".join(verdicts),
    )


def _row(label: str, scores: ScoreSummary, kind: MetricKind) -> str:
    cells = [
        label,
        kind.text(scores.mean),
        " to ".join(map(kind.text, scores.interval)) if scores.interval else "-",
        kind.text(scores.min),
        kind.text(scores.best),
        scores.n,
    ]
    return "| " + " | ".join(map(str, cells)) + " |"
