"""What the JSON files that the layers leave for each other must hold; keys that are not named here are free.

`rpg.files.read_json` and `read_sealed` check them: whoever reads such a file finds each key here, with its type.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rpg import codes

# A task code, as rpg.codes has it.
Code = Annotated[str, Field(pattern=f"^[01]{{{codes.CLASSES}}}$")]
# The default of a key that may be left out, and may not be null.
LEFT_OUT: Any = None
# The names of the sets of networks (`rpg.score.SETS`).
Set = Literal["seen", "held_out_pairs", "held_out", "all", "between"]


class Form(BaseModel):
    """What a file, or a part of it, must hold."""

    model_config = ConfigDict(strict=True)


class Vouched(Form):
    """A file that the one which names it vouches for: its path there, and its SHA-256."""

    file: Annotated[str, Field(pattern=r"^[^\x00/][^\x00]*$")]
    sha256: str

    @field_validator("file")
    @classmethod
    def _below(cls, file: str) -> str:
        if ".." in file.split("/"):
            raise ValueError("leads out of the folder")
        return file


class Files(Form):
    """base/manifest.json, and what else vouches for some files."""

    files: Annotated[list[Vouched], Field(min_length=1)]


class Checkpoint(Vouched):
    """A trained source network."""

    seed: Annotated[int, Field(ge=0)]
    step: int
    held_out: bool
    code: Code = LEFT_OUT


class Checkpoints(Form):
    """zoo/checkpoints.json."""

    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    tensors: list[str]

    @model_validator(mode="after")
    def _alike(self) -> "Checkpoints":
        _all_have_codes(self.checkpoints)
        return self


class Shard(Checkpoints):
    """zoo/<shard>/manifest.json."""

    recipe: dict[str, dict[str, Any]]
    base: str | None


class Trained(Form):
    """The networks of one seed that a shard at work has trained."""

    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    tensors: list[str]
    diverged: dict[str, int]


class Finished(Form):
    """zoo/<shard>/finished.json."""

    finished: list[Trained]
    recipe: dict[str, dict[str, Any]]
    base: str | None


class Tensor(Form):
    """Where a tensor stands among the tokens."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    dtype: Literal[
        "float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64"
    ]  # fmt: skip
    first: int
    tokens: Annotated[int, Field(ge=0)]


class Layout(Form):
    """Tensors and tokens of one architecture."""

    width: Annotated[int, Field(ge=1)]
    tensors: list[Tensor]
    canonical: bool = False

    @model_validator(mode="after")
    def _in_a_row(self) -> "Layout":
        first = 0
        for tensor in self.tensors:
            weights = 1
            for length in tensor.shape:
                weights *= length
            if tensor.first != first or (tensor.tokens and (weights < 2 or tensor.tokens != -(-weights // self.width))):
                raise ValueError(f"tensors: '{tensor.name}' does not follow the one before it")
            first += tensor.tokens
        if not first:
            raise ValueError("tensors: none has a token")
        return self


class TokenLayout(Form):
    """tokens/layout.json."""

    layout: Layout
    checkpoints: Annotated[list[Checkpoint], Field(min_length=1)]
    held_out: list[Checkpoint]
    seeds: list[int]
    files: list[Vouched]

    @model_validator(mode="after")
    def _states(self) -> "TokenLayout":
        if self.seeds != sorted({checkpoint.seed for checkpoint in self.checkpoints}):
            raise ValueError("seeds: not those of the checkpoints")
        if any(checkpoint.seed not in self.seeds for checkpoint in self.held_out):
            raise ValueError("held_out: a checkpoint of no known seed")
        _all_have_codes([*self.checkpoints, *self.held_out])
        return self


class Sampled(Vouched):
    """A sampled network."""

    model: str
    set: Set
    state: Annotated[int, Field(ge=0)]
    code: Code = LEFT_OUT
    between: list[int] = []


class Samples(Form):
    """samples/manifest.json."""

    samples: Annotated[list[Sampled], Field(min_length=1)]

    @model_validator(mode="after")
    def _of_rpg(self) -> "Samples":
        if not any(sample.model == "rpg" for sample in self.samples):
            raise ValueError("samples: none of model 'rpg'")
        _all_have_codes(self.samples)
        return self


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
    untuned: list[Scored] = []
    hypernetwork: list[Scored] = []
    files: list[Vouched]


class Summary(Form):
    """What `rpg.score.summary` says of several scores."""

    mean: float
    std: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]
    min: float
    best: float
    n: Annotated[int, Field(ge=1)]


class Compared(Form):
    """RPG beside the originals, by one metric."""

    original: Summary
    rpg: Summary
    base_model: Summary = LEFT_OUT


class Metrics(Compared):
    """metrics.json of an experiment."""

    metric: str
    parameters: int
    seen: Summary = LEFT_OUT
    held_out: Summary = LEFT_OUT
    held_out_pairs: Summary = LEFT_OUT
    between: Summary = LEFT_OUT
    original_by_set: dict[Set, Summary] = LEFT_OUT
    baselines: dict[str, dict[Set, Summary]] = {}
    others: dict[str, Compared] = {}

    @model_validator(mode="after")
    def _same_sets(self) -> "Metrics":
        sets = set(self.original_by_set or {})
        if bool(sets) != bool(self.held_out):
            raise ValueError("original_by_set: stands there if held_out does")
        for kind, found in {"rpg": {key for key in sets if getattr(self, key, None)}, **self.baselines}.items():
            if not sets <= set(found):
                raise ValueError(f"{kind}: lacks a set that the originals have")
        return self


class Method(Summary):
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


class Novelty(Form):
    """novelty.json."""

    rule: Rule
    zoo: dict[str, float]
    rpg: Annotated[dict[Set, Judged], Field(min_length=1)]
    original: Method
    baselines: dict[str, dict[Set, Method]]
    files: list[Vouched] = []


class Experiment(Form):
    """An experiment of results/metrics.json, which has its metrics.json, too."""

    novelty: Novelty


class Experiments(Form):
    """results/metrics.json."""

    experiments: dict[str, Experiment]


class Seconds(Form):
    """seconds/<layer>.json."""

    seconds: float


class Answers(Form):
    """What a network has answered, kept while it is at work."""

    answers: list[int]


class ParameterCount(Form):
    """Of rpg/config.json the number of RPG's parameters alone."""

    parameters: int


class Distances(Form):
    """What a variant's samples are, by their distance from the zoo."""

    verdict: str
    rpg: float
    original: float


class VariantSet(Form):
    """One set of networks of a variant."""

    original: Summary
    rpg: Summary
    by_seed: list[float]
    novelty: Distances = LEFT_OUT


class Variant(Form):
    """One variant of an ablation."""

    variant: str
    parameters: int
    sets: dict[Set, VariantSet]


class Ablation(Form):
    """ablation.json."""

    variants: list[Variant]


def _all_have_codes(networks: Sequence[Checkpoint | Sampled]) -> None:
    """ValueError unless all networks have a task code, or none."""
    if len({network.code is None for network in networks}) > 1:
        raise ValueError("some networks have a task code and some have none")
