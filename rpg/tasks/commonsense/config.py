"""Commonsense questions to a language model with an adapter: `task.kind` commonsense."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rpg.blocks import PARAMS_FILE, Betas, Block, Count, Positive, Revision, Seeds, Share
from rpg.data import missing_data
from rpg.tasks.config import BaseConfig, CardText, ReportSection, TaskConfig, ZooConfig
from rpg.utils.errors import UserError, suggestion
from rpg.utils.files import RESULTS
from rpg.utils.hub import missing_on_hub

if TYPE_CHECKING:
    from rpg.tasks.commonsense.task import Commonsense


class Adapter(Block):
    """What changes a language model: low-rank pairs (Hu et al. 2021), in DoRA with a magnitude for each output."""

    kind: Literal["dora", "lora"]
    rank: Annotated[int, Field(ge=1, description="r")]
    alpha: Annotated[int, Field(ge=1, description="a pair's product counts alpha / r")]
    targets: Annotated[list[str], Field(min_length=1, description="modules with a pair of their own: q_proj, up_proj")]


class LanguageBase(BaseConfig):
    """A small Llama that reads of a world of facts; the adapters of the zoo change it.

    transformers' Trainer trains it: AdamW, the learning rate rising over `warmup` steps, then falling to 0.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1)]
    width: Annotated[int, Field(ge=2, description="of the residual stream")]
    hidden: Annotated[int, Field(ge=1, description="width between the layers of an MLP")]
    blocks: Count
    heads: Count
    steps: Count
    batch: Annotated[int, Field(ge=1, description="sentences")]
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _heads_fit(self) -> "LanguageBase":
        if self.width % (2 * self.heads):
            raise ValueError("heads: each must have an even part of the width")
        return self


class AdapterZoo(ZooConfig):
    """How transformers' Trainer trains the adapters (AdamW, as `LanguageBase`), and which of their states are kept.

    Each seed trains for `steps` steps, then goes on and is saved `saves` times, every `save_every` steps; the learning
    rate falls to 0 at the last of all.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    batch: Count
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[Share, Field(description="of what enters the low-rank pairs")]
    learn_prompt: Annotated[bool, Field(description="whether the loss is of the question's tokens, too")]
    length: Annotated[int, Field(ge=2, description="tokens of a question and its answer; what is longer is cut off")]


class CommonsenseTask(TaskConfig):
    """Commonsense questions to a language model with an adapter; the metric is the mean accuracy over the subtasks.

    `new_tokens` and `beams` set how an answer is generated. `revision` is the commit of a model on the hub; it is null
    for a folder.
    """

    base_block: ClassVar = LanguageBase
    zoo_block: ClassVar = AdapterZoo
    optional: ClassVar = frozenset({"base"})
    adapters: ClassVar = True
    pipeline_tag: ClassVar = "text-generation"
    card_metric: ClassVar = "accuracy"

    kind: Literal["commonsense"]
    data: Literal["facts", "commonsense"]
    model: Annotated[str, Field(description="the language model: a folder, or its name on the Hugging Face hub")]
    revision: Revision | None
    adapter: Adapter
    training: Annotated[list[str], Field(min_length=1, description="files of questions to learn from, below the data")]
    validation: Annotated[int, Field(ge=1, description="last of these questions, which no adapter learns from")]
    subtasks: Annotated[
        list[
            Literal[
                "boolq",
                "piqa",
                "social_i_qa",
                "hellaswag",
                "winogrande",
                "ARC-Easy",
                "ARC-Challenge",
                "openbookqa",
            ]
        ],
        Field(min_length=1),
    ]
    batch: Annotated[int, Field(ge=1, description="questions that are answered at once")]
    beams: Count
    new_tokens: Count

    @property
    def dataset(self) -> str:
        return self.data

    @property
    def dataset_title(self) -> str:
        return {"facts": "questions on a generated world of facts", "commonsense": "eight commonsense benchmarks"}[
            self.data
        ]

    def code(self) -> list[str]:
        return ["rpg/data/__init__.py", "rpg/tasks/adapters.py"]

    def load(self, data_root: str | None) -> "Commonsense":
        from rpg.tasks.commonsense.task import Commonsense

        return Commonsense(self, data_root)

    @property
    def in_folder(self) -> bool:
        """Whether the language model is a folder, or will be one; UserError if a folder has a commit."""
        folder = Path(self.model)
        found = folder.is_relative_to(RESULTS) or folder.is_dir()
        if found and self.revision:
            raise UserError(f"{PARAMS_FILE}: task.revision: must be null; task.model '{self.model}' is a folder")
        return found

    def borrowed_base(self) -> str | None:
        model = Path(self.model)
        return model.parts[len(RESULTS.parts)] if model.is_relative_to(RESULTS) and model != RESULTS else None

    def check_among(self, name: str, experiments: Mapping[str, Any]) -> None:
        made = {
            f"{RESULTS}/{maker}/base/{seed:04d}": maker
            for maker, experiment in experiments.items()
            if experiment.base and experiment.task.adapters
            for seed in experiment.base.seeds
        }
        if experiments[name].base and made.get(self.model) != name:
            own = next(path for path, maker in made.items() if maker == name)
            raise ValueError(f"task.model: with a base block it must be '{own}'")
        if self.model.startswith(f"{RESULTS}/") and self.model not in made:
            raise ValueError(f"task.model: no base block makes '{self.model}'{suggestion(self.model, made)}")

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """The manifest of the language model's folder, of a model that another experiment trains."""
        if stage in ("base", "sample") or not self.borrowed_base():
            return {}
        # The zoo reads the manifest of a base block of its own anyway.
        own = experiment.base and stage in ("zoo", "collect")
        why = re.sub(r"\W+", "-", self.model.removeprefix(f"{RESULTS}/"))
        return {why: [] if own else [Path(self.model).parent / "manifest.json"]}

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        lines = missing_data(self.data, data_root)
        try:
            if not self.in_folder:
                what = f"language model '{self.model}'"
                lines += missing_on_hub(what, "task.model", self.model, "task.revision", self.revision)
        except UserError as error:
            lines.append(str(error))
        return lines

    def card(self, name: str, adapters: bool) -> CardText:
        from rpg.tasks.commonsense.card import card

        return card(self, name)

    @classmethod
    def report_section(cls, experiments: Mapping[str, Any]) -> ReportSection | None:
        from rpg.tasks.commonsense.report import section

        return section(experiments)
