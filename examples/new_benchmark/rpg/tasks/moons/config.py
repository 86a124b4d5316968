"""Classification of points on two moons: `task.kind` moons."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from rpg.blocks import Count, Positive, Seeds
from rpg.tasks.config import CardText, TaskConfig, ZooConfig

if TYPE_CHECKING:
    from rpg.tasks.moons.task import Moons


class MoonsZoo(ZooConfig):
    """Training of the source networks (Adam): `steps` steps, then `saves` checkpoints, one every `save_every` steps."""

    seeds: Seeds
    runs_per_shard: Count
    steps: Count
    saves: Count
    save_every: Count
    learning_rate: Positive


class MoonsTask(TaskConfig):
    """Two classes of points in the plane; the metric is top-1 accuracy in percent."""

    zoo_block: ClassVar = MoonsZoo
    pipeline_tag: ClassVar = "tabular-classification"
    card_metric: ClassVar = "accuracy"

    kind: Literal["moons"]
    points: Annotated[int, Field(ge=10, description="points of each split")]
    noise: Annotated[float, Field(ge=0, description="standard deviation of the noise on a point")]
    hidden: Annotated[int, Field(ge=1, description="width of the hidden layer")]

    @property
    def dataset(self) -> str:
        return "moons"

    @property
    def dataset_title(self) -> str:
        return "scikit-learn's two moons"

    def load(self, data_root: str | None) -> "Moons":
        from rpg.tasks.moons.task import Moons

        return Moons(self)

    def card(self, name: str, adapters: bool) -> CardText:
        return CardText(
            network=f"MLP of width {self.hidden}",
            library="pytorch",
            use='from safetensors.torch import load_file\n\nweights = load_file("samples/0000.safetensors")',
            answer="The network takes points [n, 2] and gives one score for each of the two classes.",
        )
