"""The typed contents of scores.json, metrics.json and novelty.json."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rpg.utils.artifacts import LEFT_OUT, Form, ListedFile, Set


class Scored(Form):
    """A network's scores in percent."""

    file: str
    sha256: str
    set: Set | None
    validation: float
    test: float


class Scores(Form):
    """scores.json."""

    metric: str
    parameters: int
    original: Annotated[list[Scored], Field(min_length=1)]
    rpg: Annotated[list[Scored], Field(min_length=1)]
    untuned: list[Scored] = Field(default_factory=list)
    hypernetwork: list[Scored] = Field(default_factory=list)
    files: list[ListedFile]


class ScoreSummary(Form):
    """What `rpg.evaluation.score.summary` says of several scores."""

    mean: float
    std: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]
    min: float
    best: float
    n: Annotated[int, Field(ge=1)]


class Compared(Form):
    """RPG beside the originals, by one metric."""

    original: ScoreSummary
    rpg: ScoreSummary
    base_model: ScoreSummary = LEFT_OUT


class Metrics(Compared):
    """metrics.json of an experiment."""

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
            raise ValueError("original_by_set: stands there if held_out does")
        for kind, found in {"rpg": {key for key in sets if getattr(self, key, None)}, **self.baselines}.items():
            if not sets <= set(found):
                raise ValueError(f"{kind}: lacks a set that the originals have")
        return self


class Method(ScoreSummary):
    """Networks made in one way: how accurate they are, and how far from the zoo."""

    distance: float
    novel: dict[str, float]


class Ensemble(Form):
    """Accuracies of two ensembles."""

    rpg: float
    original: float


class Judged(Method):
    """RPG's samples: whether they are new."""

    verdict: Literal["replica", "interpolation", "inaccurate", "novel", "none"]
    median: dict[str, float]
    ensemble: Ensemble | Annotated[dict[str, float], Field(max_length=0)] = LEFT_OUT


class Rule(Form):
    """The limits by which samples are called new."""

    copy_: Annotated[float, Field(alias="copy")]
    near: float
    combined: float
    accurate: float


class NoveltyResult(Form):
    """novelty.json."""

    rule: Rule
    zoo: dict[str, float]
    rpg: Annotated[dict[Set, Judged], Field(min_length=1)]
    original: Method
    baselines: dict[str, dict[Set, Method]]
    files: list[ListedFile] = Field(default_factory=list)


class ParameterCount(Form):
    """Of rpg/config.json the number of RPG's parameters alone."""

    parameters: int
