"""The typed contents of scores.json, metrics.json and novelty.json."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rpg.utils.artifacts import LEFT_OUT, Form, ListedFile, Number, Set


class Scored(Form):
    """One network's scores on the validation and test split, in percent."""

    file: str
    sha256: str
    set: Set | None
    validation: Number
    test: Number


class Scores(Form):
    """The whole of scores.json."""

    metric: str
    parameters: int
    original: Annotated[list[Scored], Field(min_length=1)]
    rpg: Annotated[list[Scored], Field(min_length=1)]
    untuned: list[Scored] = Field(default_factory=list)
    hypernetwork: list[Scored] = Field(default_factory=list)
    files: list[ListedFile]


class ScoreSummary(Form):
    """The summary of several scores, as `rpg.evaluation.score.summary` makes it."""

    mean: Number
    std: Number
    interval: Annotated[list[Number], Field(min_length=2, max_length=2)]
    min: Number
    best: Number
    n: Annotated[int, Field(ge=1)]


class Compared(Form):
    """The scores of RPG and of the originals by one metric."""

    original: ScoreSummary
    rpg: ScoreSummary
    base_model: ScoreSummary = LEFT_OUT


class Metrics(Compared):
    """The whole of an experiment's metrics.json."""

    metric: str
    parameters: int
    seen: ScoreSummary = LEFT_OUT
    held_out: ScoreSummary = LEFT_OUT
    held_out_pairs: ScoreSummary = LEFT_OUT
    between: ScoreSummary = LEFT_OUT
    original_by_set: dict[Set, ScoreSummary] = LEFT_OUT
    baselines: dict[str, dict[Set, ScoreSummary]] = Field(default_factory=dict)
    others: dict[str, Compared] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _same_sets(self) -> "Metrics":
        sets = set(self.original_by_set or {})
        if bool(sets) != bool(self.held_out):
            raise ValueError("original_by_set and held_out: one is there without the other")
        for kind, known_sets in {"rpg": {key for key in sets if getattr(self, key, None)}, **self.baselines}.items():
            if not sets <= set(known_sets):
                raise ValueError(f"{kind}: lacks a set that the originals have")
        return self


class Method(ScoreSummary):
    """The accuracy of one method's networks, and their distance from the zoo."""

    distance: Number
    novel: dict[str, Number]


class Ensemble(Form):
    """The accuracies of two ensembles, in percent."""

    rpg: Number
    original: Number


class SampleNovelty(Method):
    """The novelty of RPG's samples: the verdict and its medians."""

    verdict: Literal["replica", "interpolation", "inaccurate", "novel", "none"]
    median: dict[str, Number]
    ensemble: Ensemble | Annotated[dict[str, Number], Field(max_length=0)] = LEFT_OUT


class Rule(Form):
    """The thresholds of the verdict on novelty."""

    copy_: Annotated[Number, Field(alias="copy")]
    near: Number
    combined: Number
    accurate: Number


class NoveltyResult(Form):
    """The whole of novelty.json."""

    rule: Rule
    zoo: dict[str, Number]
    rpg: Annotated[dict[Set, SampleNovelty], Field(min_length=1)]
    original: Method
    baselines: dict[str, dict[Set, Method]]
    files: list[ListedFile] = Field(default_factory=list)


class ParameterCount(Form):
    """The number of RPG's parameters, from rpg/config.json."""

    parameters: int
