"""Where the artifacts of an experiment lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.stages import STAGES, artifact, decides
from rpg.utils.files import RESULTS

TABLES = RESULTS / "tables.md"


@dataclass(frozen=True)
class Paths:
    """The artifacts of one experiment below `results`.

    `makers`: stage → the experiment that makes it, where another one does (`paths_of`).
    """

    experiment: str
    results: Path = RESULTS
    makers: Mapping[str, str] = field(default_factory=dict)

    def home(self, stage: str) -> Path:
        """The folder of the experiment that makes `stage`."""
        return self.results / self.makers.get(stage, self.experiment)

    def file(self, name: str) -> Path:
        """The artifact `name`, "stage.artifact" as rpg.stages has it."""
        return self.home(name.partition(".")[0]) / artifact(name)

    def folder(self, stage: str) -> Path:
        """The folder that a stage writes into: of its first artifact, above the shards."""
        first = next(iter(STAGES[stage].writes.values()))
        return self.home(stage) / first.split("/")[0] if "/" in first else self.home(stage)

    def generator(self, experiment: Experiment) -> Path:
        """The folder of the model that samples: the tuned RPG if the experiment tunes it."""
        return self.folder("tune" if experiment.tune else "train")

    def kept(self, stage: str) -> Path:
        """Answers of networks that `stage` has scored so far: an interrupted job continues from them."""
        return self.home(stage) / "kept" / stage

    @property
    def card(self) -> Path:
        """The model card, written with the tables."""
        return self.results / self.experiment / "README.md"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.results / self.experiment / "config.yaml"


def ablation_file(name: str, results: Path = RESULTS) -> Path:
    """The summary of an ablation; its trials' folders lie beside it."""
    return results / name / "ablation.json"


def paths_of(params: Params, name: str, results: Path = RESULTS) -> Paths:
    """The artifacts of an experiment, or of a trial of an ablation.

    A trial's stage is made by the first experiment that has the same blocks for it and for all stages before it: the
    ablation's own experiment, or an earlier trial.
    """
    own = params.experiment(name)
    ablation = name.partition("/")[0]
    if ablation not in params.ablations:
        return Paths(name, results)
    of = params.ablations[ablation].experiment
    candidates = {of: params.experiment(of), **params.trials(ablation)}
    makers = {
        stage: next(
            other
            for other, experiment in candidates.items()
            if all(getattr(experiment, block) == getattr(own, block) for block in decides(stage))
        )
        for stage in STAGES
    }
    return Paths(name, results, makers)
