"""The typed contents of scores.json, metrics.json, test.json and novelty.json."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from rpg.evaluation.methods import kinds
from rpg.paths import Paths
from rpg.utils.artifacts import Form, Interval, ListedFile, MayLack, Measured, Number, ScoreSummary, Set, Summaries
from rpg.utils.errors import UserError
from rpg.utils.files import read_json, verified_file


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
    """A network with its scores on the validation and test split; `others` are by other metrics."""

    validation: Number
    test: Number
    others: dict[str, Number] = Field(default_factory=dict)
    # Split → bool [n], whether each answer is right; not a part of the file.
    _right: dict[str, np.ndarray] = PrivateAttr(default_factory=dict)

    def keep_right(self, split: str, right: np.ndarray) -> None:
        """Keep the right answers [n] on a split, for the intervals of differences."""
        self._right[split] = right

    @property
    def right(self) -> dict[str, np.ndarray]:
        """The right answers of the split → bool [n]; empty for a task without comparable answers."""
        return self._right


class Scored(ScoredNetwork):
    """An original or a sample."""

    file: str
    sha256: str
    set: Set | None


class Scores(Measured):
    """The whole of scores.json."""

    metric: str
    parameters: int
    original: Annotated[list[Scored], Field(min_length=1)]
    rpg: Annotated[list[Scored], Field(min_length=1)]
    untuned: list[Scored] = Field(default_factory=list)
    hypernetwork: list[Scored] = Field(default_factory=list)
    # Name → networks to compare with, such as the base model or runs that were held out.
    references: dict[str, list[ScoredNetwork]] = Field(default_factory=dict)
    files: list[ListedFile]

    def kinds(self) -> dict[str, list[ScoredNetwork]]:
        """Return method → its networks, for all methods in the file."""
        own: dict[str, list[ScoredNetwork]] = {
            "original": [*self.original],
            "rpg": [*self.rpg],
            "untuned": [*self.untuned],
            "hypernetwork": [*self.hypernetwork],
        }
        others = {kind: entries for kind, entries in (self.model_extra or {}).items() if kind in kinds()}
        return own | {kind: list(map(ScoredNetwork.model_validate, entries)) for kind, entries in others.items()}


class Metrics(Summaries):
    """The whole of an experiment's metrics.json (validation split) or test.json."""

    @model_validator(mode="after")
    def _same_sets(self) -> "Metrics":
        sets = set(self.original_by_set or {})
        if bool(sets) != bool(self.held_out):
            raise ValueError("original_by_set and held_out: one is there without the other")
        # Without task codes, the methods are those of novelty.json.
        if sets and (unknown := next((kind for kind in self.baselines if kind not in kinds()), None)):
            raise ValueError(f"baselines: '{unknown[:40]}' is no method")
        for kind, known_sets in {"rpg": {key for key in sets if getattr(self, key, None)}, **self.baselines}.items():
            if not sets <= set(known_sets):
                raise ValueError(f"{kind}: lacks a set that the originals have")
        return self


# The verdicts of `rpg.evaluation.novelty.verdict`; "original" is that of the originals.
Verdict = Literal["original", "replica", "interpolation", "inaccurate", "novel", "as noise", "no scale", "one run"]


class Method(ScoreSummary):
    """The accuracy of one method's networks, their verdict, and their distance from the zoo."""

    verdict: Verdict
    distance: Number
    novel: dict[str, Number]


class Ensemble(Form):
    """The accuracies of two ensembles, in percent."""

    rpg: Number
    original: Number


class SampleNovelty(Method):
    """The novelty of RPG's samples, with the medians that the verdict follows from."""

    median: dict[str, Number]
    ensemble: MayLack[Ensemble | Annotated[dict[str, Number], Field(max_length=0)]] = None


class Rule(Form):
    """The thresholds of the verdict on novelty."""

    copy_: Annotated[Number, Field(alias="copy")]
    near: Number
    combined: Number
    accurate: Number
    floor: Number


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


class AtNumber(Form):
    """The networks of one asked number: the mean score to reach (`aim`), and mean and deviation of the scores."""

    asked: Number
    aim: Number
    got: Number
    std: Number


class SplitAgreement(Form):
    """How scores on one split agree with the asked numbers; see `rpg.evaluation.wanted.summaries`."""

    correlation: Number
    error: Number
    interval: MayLack[Interval] = None
    bias: Number
    at: list[AtNumber]


class Agreement(Form):
    """How the networks of one method agree with the numbers that were asked of a vector, in one set of states."""

    method: str
    vector: str
    set: str
    n: Annotated[int, Field(ge=1)]
    validation: SplitAgreement
    test: SplitAgreement


class WantedResult(Form):
    """The whole of wanted.json."""

    metric: str
    summaries: list[Agreement]
    files: list[ListedFile]


class ParameterCount(Form):
    """The number of RPG's parameters, from rpg/config.json."""

    parameters: int


def summaries(paths: Paths) -> tuple[str, dict[str, ScoreSummary]]:
    """Return the metric and the summaries of test.json: the originals', RPG's, and those of RPG's sets.

    Both are empty if the experiment has no scores, or none of the present samples.
    """
    try:
        scored = read_json(
            verified_file(paths.file("score.test"), paths.file("score.scores"), "rpg score"), "", Metrics
        )
    except UserError:
        return "", {}
    sets = {name.replace("_", " "): summary for name, summary in scored.by_set().items()}
    return scored.metric, {"originals": scored.original, "samples": scored.rpg, **sets}
