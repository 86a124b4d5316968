"""The typed contents of results/metrics.json and of an ablation's summary."""

from pydantic import Field

from rpg.evaluation.results import Agreement, NoveltyResult
from rpg.utils.artifacts import Difference, Form, MayLack, Measured, Number, Reported, ScoreSummary, Set


class ExperimentResult(Reported):
    """An experiment's entry in results/metrics.json: its test.json, and its novelty.json without the files.

    `knows` maps a method to the source of its knowledge. `devices` lists the devices on which RPG was trained.
    """

    novelty: NoveltyResult
    devices: list[str] = Field(default_factory=list)
    knows: dict[str, str] = Field(default_factory=dict)


class ExperimentResults(Form):
    """The whole of results/metrics.json."""

    experiments: dict[str, ExperimentResult]


class Distances(Form):
    """The verdict on a variant's samples, and the distances of samples and originals."""

    verdict: str
    rpg: Number
    original: MayLack[Number] = None


class SplitScores(Form):
    """The scores of originals and samples on one split."""

    original: ScoreSummary
    rpg: ScoreSummary


class VariantSet(Form):
    """The scores of one set of a variant's networks; `by_seed` and `recounted` hold validation scores."""

    validation: SplitScores
    test: SplitScores
    recounted: MayLack[ScoreSummary] = None
    by_seed: list[Number]
    novelty: MayLack[Distances] = None


class Variant(Form):
    """One variant of an ablation."""

    variant: str
    parameters: int
    sets: dict[Set, VariantSet]
    wanted: MayLack[list[Agreement]] = None


class RivalSet(Form):
    """The scores of one set of a method's networks, and the best variant's mean above theirs on the test split."""

    validation: ScoreSummary
    test: ScoreSummary
    by_seed: list[Number]
    above: Difference


class Rival(Form):
    """A method without RPG."""

    kind: str
    sets: dict[Set, RivalSet]


class AblationResult(Measured):
    """The whole of ablation.json; `best` is the variant of RPG with the best validation score.

    `prompts` is the text of `rpg prompts` over all trainings.
    """

    variants: list[Variant]
    best: MayLack[str] = None
    prompts: MayLack[str] = None
    rivals: list[Rival] = Field(default_factory=list)
