"""The typed contents of results/metrics.json and of an ablation's summary."""

from rpg.evaluation.results import NoveltyResult, ScoreSummary
from rpg.utils.artifacts import LEFT_OUT, Form, Set


class ExperimentResult(Form):
    """An experiment of results/metrics.json, which has its metrics.json, too."""

    novelty: NoveltyResult


class ExperimentResults(Form):
    """results/metrics.json."""

    experiments: dict[str, ExperimentResult]


class Distances(Form):
    """What a variant's samples are, by their distance from the zoo."""

    verdict: str
    rpg: float
    original: float


class VariantSet(Form):
    """One set of networks of a variant."""

    original: ScoreSummary
    rpg: ScoreSummary
    by_seed: list[float]
    novelty: Distances = LEFT_OUT


class Variant(Form):
    """One variant of an ablation."""

    variant: str
    parameters: int
    sets: dict[Set, VariantSet]


class AblationResult(Form):
    """ablation.json."""

    variants: list[Variant]
