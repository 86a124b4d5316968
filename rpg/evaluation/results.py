"""The typed contents of scores.json, metrics.json and novelty.json."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rpg.utils.artifacts import Form, ListedFile, MayLack, Number, ScoreSummary, Set, Summaries


class NetworkFacts(Form):
    """What scores.json says of a network besides its scores, as far as it is known."""

    file: MayLack[str] = None
    sha256: MayLack[str] = None
    seed: MayLack[int] = None
    step: MayLack[int] = None
    state: MayLack[int] = None
    between: MayLack[list[int]] = None
    code: MayLack[str] = None
    held_out: MayLack[bool] = None
    set: Set | None = None


class ScoredNetwork(NetworkFacts):
    """A network with its scores on the validation and test split, in percent; `others` are by other metrics."""

    validation: Number
    test: Number
    others: dict[str, Number] = Field(default_factory=dict)


class Scored(ScoredNetwork):
    """An original or a sample."""

    file: str
    sha256: str
    set: Set | None


class Scores(Form):
    """The whole of scores.json."""

    metric: str
    parameters: int
    original: Annotated[list[Scored], Field(min_length=1)]
    rpg: Annotated[list[Scored], Field(min_length=1)]
    untuned: list[Scored] = Field(default_factory=list)
    hypernetwork: list[Scored] = Field(default_factory=list)
    files: list[ListedFile]


class Metrics(Summaries):
    """The whole of an experiment's metrics.json."""

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
    ensemble: MayLack[Ensemble | Annotated[dict[str, Number], Field(max_length=0)]] = None


class Rule(Form):
    """The thresholds of the verdict on novelty."""

    copy_: Annotated[Number, Field(alias="copy")]
    near: Number
    combined: Number
    accurate: Number


class Symmetries(Form):
    """Numbers of symmetries that distances leave out: groups of permuted units, groups of rescaled units, pairs.

    `reason` says why there are no groups of units, and is empty if there are some.
    """

    permutations: int
    scales: int
    low_rank: int
    reason: str = ""


class NoveltyResult(Form):
    """The whole of novelty.json."""

    rule: Rule
    zoo: dict[str, Number]
    rpg: Annotated[dict[Set, SampleNovelty], Field(min_length=1)]
    original: Method
    baselines: dict[str, dict[Set, Method]]
    symmetries: MayLack[Symmetries] = None
    files: list[ListedFile] = Field(default_factory=list)


class ParameterCount(Form):
    """The number of RPG's parameters, from rpg/config.json."""

    parameters: int
