"""The typed contents of results/metrics.json and of an ablation's summary."""

from rpg.evaluation.results import NoveltyResult
from rpg.utils.artifacts import Form, MayLack, Number, Reported, ScoreSummary, Set


class ExperimentResult(Reported):
    """An experiment's entry in results/metrics.json: its metrics.json, and its novelty.json without the files."""

    novelty: NoveltyResult


class ExperimentResults(Form):
    """The whole of results/metrics.json."""

    experiments: dict[str, ExperimentResult]


class Distances(Form):
    """The verdict on a variant's samples, and the distances of samples and originals."""

    verdict: str
    rpg: Number
    original: Number


class VariantSet(Form):
    """The scores of one set of a variant's networks."""

    original: ScoreSummary
    rpg: ScoreSummary
    by_seed: list[Number]
    novelty: MayLack[Distances] = None


class Variant(Form):
    """One variant of an ablation."""

    variant: str
    parameters: int
    sets: dict[Set, VariantSet]


class AblationResult(Form):
    """The whole of ablation.json."""

    variants: list[Variant]
