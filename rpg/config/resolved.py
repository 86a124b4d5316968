"""Write the resolved configuration of an experiment: results/<experiment>/config.yaml, with all presets merged.

DVC tracks this file key by key. A reader finds every value of the experiment in one place.
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
    """Return the text of config.yaml: every block, including null blocks."""
    return HEADER.format(name=name) + yaml.safe_dump(experiment.model_dump(), sort_keys=False, width=120)


def write_configs(params: Params, names: Iterable[str]) -> None:
    """Write config.yaml of the experiments `names`; leave unchanged files untouched."""
    for name in names:
        path, text = RESULTS / name / "config.yaml", resolved_yaml(name, params.experiment(name))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
