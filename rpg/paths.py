"""Where the artifacts of an experiment lie; the rules, the command line and the tests ask here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rpg.params import Experiment, Params

RESULTS = Path("results")
# Layer → blocks of the experiment that decide what it makes, those of the layers before it included.
_ZOO = ("task", "base", "zoo")
_RPG = (*_ZOO, "tokens", "model", "diffusion", "train")
_SAMPLE = (*_RPG, "tune", "hypernetwork", "sample")
DECIDES = {
    "base": ("task", "base"),
    "zoo": _ZOO,
    "tokens": (*_ZOO, "tokens"),
    "train": _RPG,
    "tune": (*_RPG, "tune"),
    "hypernetwork": (*_ZOO, "tokens", "model", "diffusion", "hypernetwork"),
    "sample": _SAMPLE,
    "score": _SAMPLE,
    "novelty": (*_SAMPLE, "novelty"),
}


@dataclass(frozen=True)
class Paths:
    """The folders of one experiment below `results`; a layer that another experiment has made lies in that one's.

    `makers`: layer → the experiment that makes it, where it is another one (`paths_of`).
    """

    experiment: str
    results: Path = RESULTS
    makers: Mapping[str, str] = field(default_factory=dict)

    def folder(self, layer: str) -> Path:
        return self.results / self.makers.get(layer, self.experiment)

    @property
    def base(self) -> Path:
        return self.folder("base") / "base"

    @property
    def zoo(self) -> Path:
        return self.folder("zoo") / "zoo"

    @property
    def tokens(self) -> Path:
        return self.folder("tokens") / "tokens"

    @property
    def rpg(self) -> Path:
        return self.folder("train") / "rpg"

    @property
    def tune(self) -> Path:
        return self.folder("tune") / "tune"

    @property
    def hypernetwork(self) -> Path:
        return self.folder("hypernetwork") / "hypernetwork"

    def generator(self, experiment: Experiment) -> Path:
        """The folder of the model that samples: the tuned RPG if the experiment tunes it."""
        return self.tune if experiment.tune else self.rpg

    @property
    def samples(self) -> Path:
        return self.folder("sample") / "samples"

    @property
    def scores(self) -> Path:
        return self.folder("score") / "scores.json"

    @property
    def metrics(self) -> Path:
        return self.folder("score") / "metrics.json"

    @property
    def answers(self) -> Path:
        return self.folder("score") / "answers.safetensors"

    @property
    def novelty(self) -> Path:
        return self.folder("novelty") / "novelty.json"

    @property
    def novelty_rows(self) -> Path:
        return self.folder("novelty") / "novelty.csv"

    def kept(self, layer: str) -> Path:
        """Answers of networks that `layer` has judged, while it is at work: what it goes on from if interrupted."""
        return self.folder(layer) / "kept" / layer

    @property
    def card(self) -> Path:
        """The model card, written with the tables."""
        return self.results / self.experiment / "README.md"

    def seconds(self, layer: str) -> Path:
        """Measured seconds of `layer`, apart from the artifacts, which are the same bytes in every run."""
        return self.folder(layer) / "seconds" / f"{layer}.json"


def ablation_file(name: str, results: Path = RESULTS) -> Path:
    """The summary of an ablation; its trials' folders lie beside it."""
    return results / name / "ablation.json"


def paths_of(params: Params, name: str, results: Path = RESULTS) -> Paths:
    """The folders of an experiment, or of a trial of an ablation.

    A trial's layer is made by the first experiment that has the same blocks for it and for all before it: the one that
    the ablation is of, or an earlier trial.
    """
    own = params.experiment(name)
    ablation = name.partition("/")[0]
    if ablation not in params.ablations:
        return Paths(name, results)
    of = params.ablations[ablation].experiment
    candidates = {of: params.experiment(of), **params.trials(ablation)}
    makers = {
        layer: next(
            other
            for other, experiment in candidates.items()
            if all(getattr(experiment, block) == getattr(own, block) for block in blocks)
        )
        for layer, blocks in DECIDES.items()
    }
    return Paths(name, results, makers)
