"""Where the artifacts of an experiment lie; the rules, the command line and the tests ask here."""

from dataclasses import dataclass
from pathlib import Path

from rpg.params import Experiment

RESULTS = Path("results")


@dataclass(frozen=True)
class Paths:
    """The folders of one experiment below `results`."""

    experiment: str
    results: Path = RESULTS

    @property
    def folder(self) -> Path:
        return self.results / self.experiment

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def zoo(self) -> Path:
        return self.folder / "zoo"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    @property
    def rpg(self) -> Path:
        return self.folder / "rpg"

    @property
    def tune(self) -> Path:
        return self.folder / "tune"

    @property
    def hypernetwork(self) -> Path:
        return self.folder / "hypernetwork"

    def generator(self, experiment: Experiment) -> Path:
        """The folder of the model that samples: the tuned RPG if the experiment tunes it."""
        return self.tune if experiment.tune else self.rpg

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def scores(self) -> Path:
        return self.folder / "scores.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def novelty(self) -> Path:
        return self.folder / "novelty.json"

    @property
    def novelty_rows(self) -> Path:
        return self.folder / "novelty.csv"

    def seconds(self, layer: str) -> Path:
        """Measured seconds of `layer`, apart from the artifacts, which are the same bytes in every run."""
        return self.folder / "seconds" / f"{layer}.json"
