"""Write the tables of all ablations in params.yaml: `rpg ablations`, to results/ablations.md and ablations.json."""

from pathlib import Path

from rpg.config.params import Params
from rpg.reports.ablation_table import ablations
from rpg.utils.files import write_json, write_text
from rpg.utils.metric import PERCENT

HEADING = """# Ablations

What becomes of RPG when one choice is another. Choices are made on the validation split, whose scores {unit} stand
first; *test* columns have those on the test split. Means are over all networks sampled from all trainings of a variant;
± is the standard deviation. Brackets hold a 95 % interval: Student's t, over the training runs of the zoo, or the
tasks, and over the trainings of RPG. *By seed* has the mean of each training on the validation split. *Distance* and
*verdict* are as in results/tables.md, of samples and of originals to other training runs; at most twenty samples of
each training are measured. Everything that is not named is as in the experiment that is varied.
"""


def write_tables(params: Params, results: Path) -> None:
    """Write ablations.md and ablations.json; UserError if an ablation is missing."""
    text, found = ablations(params, [name for name, one in params.ablations.items() if not one.peers], results)
    other = any(result.metric_kind != PERCENT for result in found.values())
    heading = HEADING.format(unit="in percent, or as an ablation says," if other else "in percent")
    write_text(results / "ablations.md", heading + text)
    write_json(results / "ablations.json", {name: result.tree() for name, result in found.items()})
