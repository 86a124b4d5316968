"""Check an experiment's prerequisites: data sets, and networks trained elsewhere."""

from collections.abc import Collection

from rpg.config.experiment import Experiment
from rpg.stages import READS_DATA


def missing(experiment: Experiment, data_root: str | None, stages: Collection[str] = READS_DATA) -> list[str]:
    """Return one line, with the remedy, per missing prerequisite of these stages."""
    return experiment.task.missing(experiment, data_root, stages)
