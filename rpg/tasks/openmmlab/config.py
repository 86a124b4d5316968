"""The common blocks of segmentation and detection: a config of OpenMMLab's toolboxes, and changes to it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr

from rpg.blocks import Count, Seeds
from rpg.data import missing_data
from rpg.tasks.config import BaseConfig, CardText, ReportSection, TaskConfig, ZooConfig
from rpg.utils.artifacts import Reported

# The file of a network's config beside a packed generator.
NETWORK = "network.py"
Overrides = Annotated[
    dict[str, Any],
    Field(description="changes to the config by dotted key, such as {optim_wrapper.optimizer.lr: 0.001}"),
]


class RunnerBase(BaseConfig):
    """Training of the base networks by mmengine's Runner and the task's config.

    One seed makes one base network for the whole zoo. As many seeds as zoo.seeds make one base network for each of the
    zoo's seeds.
    """

    seeds: Seeds
    steps: Count
    overrides: Overrides


class RunnerZoo(ZooConfig):
    """Training of the source networks by mmengine's Runner and the task's config, and the checkpoints to keep.

    Each seed trains for `steps` steps. It then saves `saves` checkpoints, one every `save_every` steps.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    overrides: Overrides


class OpenMMLabTask(TaskConfig):
    """The keys that segmentation and detection share."""

    base_block: ClassVar = RunnerBase
    zoo_block: ClassVar = RunnerZoo
    optional: ClassVar = frozenset({"base"})
    has_pictures: ClassVar = True
    # Hugging Face's name of the library.
    library: ClassVar[str]
    # The data sets' names in a sentence.
    titles: ClassVar[dict[str, str]]

    config: Annotated[
        str,
        Field(description="a file, or a toolbox's config, such as mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"),
    ]
    overrides: Overrides
    validation: Annotated[int, Field(ge=1, description="number of last training images to hold out for validation")]
    _literal: bool = PrivateAttr(default=False)

    @property
    def dataset(self) -> str:
        return str(self.data)  # type: ignore[attr-defined]

    @property
    def dataset_title(self) -> str:
        return {"scenes": "scenes of scikit-learn's digits", **self.titles}[self.dataset]

    def packed(self, folder: Path) -> TaskConfig:
        """Write the whole config, with its changes, as a file of literals."""
        from rpg.tasks.openmmlab.literal import write_literals

        write_literals(self.load(None).read_config(), folder / NETWORK)  # type: ignore[attr-defined]
        return self.model_copy(update={"config": NETWORK, "overrides": {}})

    def unpacked(self, folder: Path) -> TaskConfig:
        unpacked = self.model_copy(update={"config": str(folder / NETWORK), "overrides": {}})
        unpacked._literal = True
        return unpacked

    @property
    def literal(self) -> bool:
        """Whether the config is a file of literals, which is read without running it."""
        return self._literal

    def code(self) -> list[str]:
        return [
            "rpg/tasks/openmmlab/task.py",
            "rpg/tasks/openmmlab/literal.py",
            "rpg/tasks/openmmlab/vitdet.py",
            "rpg/data",
        ]

    @property
    def config_file(self) -> Path | None:
        """The config's file; None for a config that the toolbox ships, which the toolbox's version fixes."""
        return None if "::" in self.config else Path(self.config)

    def check_files(self) -> str | None:
        file = self.config_file
        return f"task.config: no file '{file}'" if file and not file.is_file() else None

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        file = self.config_file
        return {Path(self.config).stem: [file]} if file else {}

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        return missing_data(self.dataset, data_root)

    def card(self, name: str, adapters: bool) -> CardText:
        from rpg.tasks.openmmlab.card import card

        return card(self, name)

    @classmethod
    def report_section(cls, experiments: Mapping[str, Reported]) -> ReportSection | None:
        from rpg.tasks.openmmlab.report import section

        return section(experiments)
