"""The paths of an experiment's artifacts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.stages import STAGES, artifact, decides
from rpg.utils.files import RESULTS

TABLES = RESULTS / "tables.md"
METRICS = RESULTS / "metrics.json"


@dataclass(frozen=True)
class Paths:
    """The paths of one experiment's artifacts below `results`.

    `makers` maps a stage to the experiment that makes it, if this is another experiment (`paths_of`).
    """

    experiment: str
    results: Path = RESULTS
    makers: Mapping[str, str] = field(default_factory=dict)

    def home(self, stage: str) -> Path:
        """Return the folder of the experiment that makes `stage`."""
        return self.results / self.makers.get(stage, self.experiment)

    def file(self, name: str) -> Path:
        """Return the path of the artifact `name`, written "stage.artifact" as in rpg.stages."""
        return self.home(name.partition(".")[0]) / artifact(name)

    def folder(self, stage: str) -> Path:
        """Return the folder that a stage writes into: the folder of its first artifact, above the shards."""
        first = next(iter(STAGES[stage].writes.values()))
        return self.home(stage) / first.split("/")[0] if "/" in first else self.home(stage)

    def generator(self, experiment: Experiment) -> Path:
        """Return the folder of the sampled model: the tuned RPG if the experiment has a tune block."""
        return self.folder("tune" if experiment.tune else "train")

    def kept(self, stage: str) -> Path:
        """Return the folder of answers that `stage` has computed so far; an interrupted job continues from them."""
        return self.home(stage) / "kept" / stage

    @property
    def card(self) -> Path:
        """The path of the model card, written with the tables."""
        return self.results / self.experiment / "README.md"

    @property
    def config(self) -> Path:
        """The path of the resolved configuration."""
        return self.results / self.experiment / "config.yaml"


def ablation_file(name: str, results: Path = RESULTS) -> Path:
    """Return the path of an ablation's summary; the trials' folders are in the same folder."""
    return results / name / "ablation.json"


def paths_of(params: Params, name: str, results: Path = RESULTS) -> Paths:
    """Return the paths of an experiment, or of an ablation's trial.

    A trial shares a stage with the first experiment that has equal blocks for this stage and all stages before it: the
    ablation's experiment, or an earlier trial.
    """
    own = params.experiment(name)
    ablation = name.partition("/")[0]
    if ablation not in params.ablations:
        return Paths(name, results)
    base = params.ablations[ablation].experiment
    candidates = {base: params.experiment(base), **params.trials(ablation)}
    makers = {
        stage: next(
            other
            for other, experiment in candidates.items()
            if all(getattr(experiment, block) == getattr(own, block) for block in decides(stage))
        )
        for stage in STAGES
    }
    return Paths(name, results, makers)
