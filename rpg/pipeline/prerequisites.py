"""What an experiment needs that no stage makes: data sets, and networks that were trained elsewhere."""

from collections.abc import Collection

from rpg.config.experiment import Experiment
from rpg.stages import READS_DATA


def missing(experiment: Experiment, data_root: str | None, stages: Collection[str] = READS_DATA) -> list[str]:
    """One line for each thing that these stages need and that is not there, with the remedy."""
    return experiment.task.missing(experiment, data_root, stages)
