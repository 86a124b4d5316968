"""Classification with pretrained timm networks: `task.kind` fine_tuning."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rpg.blocks import Count, Positive, Precision, Revision, Seeds
from rpg.data import TITLES, missing_data
from rpg.tasks.classification.config import TimmNetwork
from rpg.tasks.config import BaseConfig, CardText, TaskConfig, ZooConfig
from rpg.utils.errors import UserError
from rpg.utils.hub import missing_on_hub, timm_repository

if TYPE_CHECKING:
    from rpg.tasks.fine_tuning.task import FineTuning


class PretrainedBase(BaseConfig):
    """The pretrained weights of a timm network that the zoo's runs start from.

    `revision` is the commit of weights on the hub; it is null for a file.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1)]
    weights: Annotated[
        str, Field(description="'timm' for timm's weights on the Hugging Face hub, or a file with a state dict")
    ]
    revision: Revision | None
    top1: Annotated[
        float | None,
        Field(ge=0, le=100, description="published accuracy in percent on the test split; the weights must reach it"),
    ]

    @model_validator(mode="after")
    def _of_the_hub(self) -> "PretrainedBase":
        if self.revision and self.weights != "timm":
            raise ValueError("revision: must be null; weights is a file")
        return self


class FineTuningZoo(ZooConfig):
    """Fine-tuning of the source networks (AdamW, constant learning rate), and the checkpoints to keep.

    Each seed trains for `steps` steps. It then saves `saves` checkpoints, one every `save_every` steps.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    batch: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    precision: Precision


class FineTuningTask(TaskConfig):
    """Image classification with a pretrained timm network; the metric is top-1 accuracy in percent.

    timm's `resolve_data_config` sets resolution, normalization and transforms for the network's weights. The network's
    argument `img_size` overrides the resolution.
    """

    base_block: ClassVar = PretrainedBase
    zoo_block: ClassVar = FineTuningZoo
    optional: ClassVar = frozenset({"base"})
    needs_base: ClassVar = True
    pipeline_tag: ClassVar = "image-classification"
    card_metric: ClassVar = "accuracy"

    kind: Literal["fine_tuning"]
    data: Literal["imagenet", "cifar10"]
    network: TimmNetwork
    validation: Annotated[
        int, Field(ge=1, description="training images to hold out for validation, drawn evenly over the classes")
    ]
    workers: Annotated[int, Field(ge=0, description="processes that read images; any number gives the same images")]

    @property
    def resolution(self) -> dict[str, Any]:
        """The arguments of timm's `resolve_data_config`, which knows the weights' resolution but not the network's."""
        size = self.network.arguments.get("img_size")
        return {"input_size": (3, *size)} if isinstance(size, list) else {"img_size": size} if size else {}

    @property
    def dataset(self) -> str:
        return self.data

    @property
    def dataset_title(self) -> str:
        return {"imagenet": "ImageNet-1K", **TITLES}[self.data]

    def code(self) -> list[str]:
        return ["rpg/data"]

    @classmethod
    def import_libraries(cls) -> None:
        import timm  # noqa: F401

        import rpg.tasks.fine_tuning.task  # noqa: F401

    def load(self, data_root: str | None) -> "FineTuning":
        from rpg.tasks.fine_tuning.task import FineTuning

        return FineTuning(self, data_root)

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        weights = Path(experiment.base.weights)
        return {"weights": [weights]} if stage == "base" and weights.is_file() else {}

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        lines = missing_data(self.data, data_root)
        try:
            if "base" in stages:
                lines += self._missing_weights(experiment.base)
        except UserError as error:
            lines.append(str(error))
        return lines

    def _missing_weights(self, base: PretrainedBase) -> list[str]:
        if base.weights != "timm":
            return [] if Path(base.weights).is_file() else [f"{base.weights}: no such file; correct base.weights"]
        what, repository = f"weights of timm's '{self.network.name}'", timm_repository(self.network.name)
        if not repository:
            return [f"{what}: not on the Hugging Face hub; set base.weights to a file"]
        return missing_on_hub(what, "base.weights", repository, "base.revision", base.revision)

    def card(self, name: str, adapters: bool) -> CardText:
        from rpg.tasks.fine_tuning.card import card

        return card(self)
