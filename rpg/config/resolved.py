"""The resolved configuration of an experiment: its blocks with all presets merged, results/<experiment>/config.yaml.

DVC tracks it key by key, and a reader finds every value of an experiment in one place.
"""

from collections.abc import Iterable

import yaml

from rpg.config.experiment import Experiment
from rpg.config.params import Params
from rpg.utils.files import RESULTS, write_text

HEADER = (
    "# The resolved configuration of experiment {name}.\n"
    "# Written by `rpg config` from params.yaml, where changes belong.\n"
)


def resolved_yaml(name: str, experiment: Experiment) -> str:
    """The text of config.yaml: every block, also those that are null."""
    return HEADER.format(name=name) + yaml.safe_dump(experiment.model_dump(), sort_keys=False, width=120)


def write_configs(params: Params, names: Iterable[str]) -> None:
    """Write config.yaml of the experiments `names`; leave a file that would not change alone."""
    for name in names:
        path, text = RESULTS / name / "config.yaml", resolved_yaml(name, params.experiment(name))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
