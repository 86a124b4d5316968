"""Questions, answered by a language model with an adapter: `task.kind` commonsense and adapter_tasks."""

import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rpg.blocks import PARAMS_FILE, Betas, Block, Count, Positive, Revision, Seeds, Share
from rpg.data import BUILT_IN, data_folder, missing_data
from rpg.tasks.config import BaseConfig, CardText, ReportSection, Run, TaskConfig, ZooConfig
from rpg.utils.artifacts import Reported
from rpg.utils.errors import UserError, suggestion
from rpg.utils.files import RESULTS
from rpg.utils.hub import missing_on_hub

if TYPE_CHECKING:
    from rpg.tasks.commonsense.adapter_tasks import AdapterTaskSet
    from rpg.tasks.commonsense.task import Commonsense


# The stages that turn questions into features.
READS_PROMPTS = frozenset({"tune", "hypernetwork", "sample", "score", "novelty", "prompts"})
# The folder of a language model beside a packed generator.
LANGUAGE_MODEL = "language_model"
TITLES = {
    "facts": "questions on a generated world of facts",
    "fact_tasks": "tasks on a generated world of facts",
    "commonsense": "eight commonsense benchmarks",
}


class Adapter(Block):
    """The adapter of a language model: low-rank pairs (Hu et al. 2021), with DoRA also a magnitude for each output."""

    kind: Literal["dora", "lora"]
    rank: Annotated[int, Field(ge=1, description="r, rank of a pair")]
    alpha: Annotated[int, Field(ge=1, description="scale of a pair: its product is multiplied by alpha / r")]
    targets: Annotated[list[str], Field(min_length=1, description="modules that get a pair, such as q_proj")]


class LanguageBase(BaseConfig):
    """A small Llama that learns a world of facts; the zoo's adapters adapt it.

    transformers' Trainer trains it with AdamW. The learning rate rises over `warmup` steps, then falls to 0.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1)]
    width: Annotated[int, Field(ge=2, description="width of the residual stream")]
    hidden: Annotated[int, Field(ge=1, description="inner width of an MLP")]
    blocks: Count
    heads: Count
    steps: Count
    batch: Annotated[int, Field(ge=1, description="sentences per step")]
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _heads_fit(self) -> "LanguageBase":
        if self.width % (2 * self.heads):
            raise ValueError("heads: 2 · heads must divide width")
        return self


class AdapterZoo(ZooConfig):
    """Training of the adapters by transformers' Trainer (AdamW, as in `LanguageBase`), and the checkpoints to keep.

    Each seed trains for `steps` steps. It then saves `saves` checkpoints, one every `save_every` steps. The learning
    rate rises over `warmup` steps, then falls linearly to `final_learning_rate` at the last checkpoint.
    """

    seeds: Seeds
    runs_per_shard: Count
    steps: Annotated[int, Field(ge=0)]
    saves: Count
    save_every: Count
    batch: Count
    learning_rate: Positive
    final_learning_rate: Annotated[
        float,
        Field(ge=0, description="learning rate at the last checkpoint; with 0 the last checkpoints hardly differ"),
    ]
    warmup: Annotated[int, Field(ge=0)]
    betas: Betas
    weight_decay: Annotated[float, Field(ge=0)]
    dropout: Annotated[Share, Field(description="dropout of the low-rank pairs' inputs")]
    learn_prompt: Annotated[bool, Field(description="whether the loss includes the question's tokens")]
    length: Annotated[int, Field(ge=2, description="maximum tokens of a question with its answer; longer ones are cut")]

    @model_validator(mode="after")
    def _rate_falls(self) -> "AdapterZoo":
        if self.final_learning_rate >= self.learning_rate:
            raise ValueError("final_learning_rate: must be less than learning_rate")
        return self


class LanguageTaskConfig(TaskConfig):
    """Questions, answered by a language model with an adapter.

    `new_tokens` and `beams` control the generation of an answer. `revision` is the commit of a model on the hub; it is
    null for a folder.
    """

    base_block: ClassVar = LanguageBase
    zoo_block: ClassVar = AdapterZoo
    optional: ClassVar = frozenset({"base"})
    adapters: ClassVar = True
    pipeline_tag: ClassVar = "text-generation"
    card_metric: ClassVar = "accuracy"
    extra: ClassVar = "language"
    how_to_build: ClassVar = "`generator.network(...)` returns a PeftModel (`pip install rpg-weights[language]`)."

    data: str
    model: Annotated[str, Field(description="the language model: a folder, or its name on the Hugging Face hub")]
    revision: Revision | None
    adapter: Adapter
    batch: Annotated[int, Field(ge=1, description="questions to answer at once")]
    beams: Count
    new_tokens: Count

    @property
    def dataset(self) -> str:
        return self.data

    @property
    def dataset_title(self) -> str:
        return TITLES[self.data]

    def code(self) -> list[str]:
        return ["rpg/data/__init__.py", "rpg/tasks/adapters.py"]

    def packed(self, folder: Path) -> TaskConfig:
        """Copy the language model, unless the hub has it."""
        if not self.in_folder:
            return self
        shutil.copytree(self.model, folder / LANGUAGE_MODEL, dirs_exist_ok=True)
        return self.model_copy(update={"model": LANGUAGE_MODEL})

    def unpacked(self, folder: Path) -> TaskConfig:
        return self if self.revision else self.model_copy(update={"model": str(folder / LANGUAGE_MODEL)})

    def adapter_tree(self, tree: dict[str, Any]) -> dict[str, Any]:
        # The path of the zoo's language model is none where the packed generator is.
        return tree | {"base_model_name_or_path": self.model if self.revision else str(Path(self.model).resolve())}

    @classmethod
    def import_libraries(cls) -> None:
        from peft import get_peft_model, get_peft_model_state_dict  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer  # noqa: F401

        import rpg.tasks.commonsense.task  # noqa: F401

    @property
    def in_folder(self) -> bool:
        """Whether the language model is a folder, now or after the base stage; UserError if a folder has a commit."""
        folder = Path(self.model)
        in_folder = folder.is_relative_to(RESULTS) or folder.is_dir()
        if in_folder and self.revision:
            raise UserError(f"{PARAMS_FILE}: task.revision: must be null; task.model '{self.model}' is a folder")
        return in_folder

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
            raise ValueError(f"task.model: with a base block it must be '{own}', the model that the block makes")
        if self.model.startswith(f"{RESULTS}/") and self.model not in made:
            raise ValueError(f"task.model: no base block makes '{self.model}'{suggestion(self.model, made)}")

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """Return the manifest of the language model's folder, if another experiment trains the model."""
        if stage == "base" or not self.borrowed_base():
            return {}
        # A sample needs no language model, unless it is for questions that the model reads.
        if stage == "sample" and not experiment.model.text:
            return {}
        # With a base block of its own, the zoo stage reads this manifest in every experiment.
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
    def report_section(cls, experiments: Mapping[str, Reported]) -> ReportSection | None:
        from rpg.tasks.commonsense.report import section

        return section(experiments)


class CommonsenseTask(LanguageTaskConfig):
    """Commonsense questions, answered by a language model with an adapter.

    The metric is the mean accuracy over the subtasks. `new_tokens` and `beams` control the generation of an answer.
    `revision` is the commit of a model on the hub; it is null for a folder.
    """

    kind: Literal["commonsense"]
    data: Literal["facts", "commonsense"]
    training: Annotated[list[str], Field(min_length=1, description="files of training questions in the data folder")]
    validation: Annotated[int, Field(ge=1, description="number of last training questions to hold out for validation")]
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

    def load(self, data_root: str | None) -> "Commonsense":
        from rpg.tasks.commonsense.task import Commonsense

        return Commonsense(self, data_root)


class AdapterTasks(LanguageTaskConfig):
    """Many tasks for one language model, and an adapter for each.

    The questions of a task are in the data folder, in dataset/<task>/train.json and test.json; the last `validation`
    training questions are for validation. RPG learns from the adapters of the tasks `seen`; those of `held_out` are
    trained for the scores alone. The metric is the accuracy in percent.
    """

    optional: ClassVar = frozenset({"base", "tune", "hypernetwork", "prompts"})
    has_codes: ClassVar = True
    prompts: ClassVar = frozenset({"text"})
    run_keys: ClassVar = frozenset({"seen", "held_out"})

    kind: Literal["adapter_tasks"]
    data: Literal["fact_tasks", "commonsense"]
    seen: Annotated[list[str], Field(min_length=2, description="tasks that RPG learns from")]
    held_out: Annotated[list[str], Field(min_length=1, description="tasks that RPG never learns from")]
    validation: Annotated[
        int, Field(ge=1, description="number of last training questions of each task to hold out for validation")
    ]

    @model_validator(mode="after")
    def _tasks_fit(self) -> "AdapterTasks":
        tasks = [*self.seen, *self.held_out]
        if twice := next((task for task in tasks if tasks.count(task) > 1), None):
            raise ValueError(f"seen, held_out: '{twice}' is listed twice; remove one")
        return self

    def runs(self, zoo: ZooConfig) -> dict[int, Run]:
        # The held-out tasks come first, so that more seen tasks change no other run's shard.
        tasks = [*self.held_out, *self.seen]
        return {
            number * len(tasks) + index: Run(seed=seed, code=task, held_out=task in self.held_out)
            for number, seed in enumerate(sorted(zoo.seeds))
            for index, task in enumerate(tasks)
        }

    @property
    def task_names(self) -> tuple[str, ...]:
        from rpg.tasks.commonsense.fact_tasks import TASKS

        # The world of facts has questions of further tasks.
        return tuple(dict.fromkeys([*self.seen, *self.held_out, *(TASKS if self.data == "fact_tasks" else ())]))

    def reads(self, stage: str, experiment: Any) -> dict[str, list[Path]]:
        """Return the files of a sentence encoder, too."""
        text = experiment.model.text
        files = {}
        if text and text.encoder and stage in READS_PROMPTS:
            why = f"encoder-{re.sub(r'[^a-zA-Z0-9]+', '-', text.encoder).strip('-')}"
            files[why] = sorted(path for path in Path(text.encoder).rglob("*") if path.is_file())
        return super().reads(stage, experiment) | files

    def missing(self, experiment: Any, data_root: str | None, stages: Collection[str]) -> list[str]:
        lines = super().missing(experiment, data_root, stages)
        if not lines and self.data not in BUILT_IN:
            folder = data_folder(self.data, data_root) / "dataset"
            files = [
                folder / task / f"{part}.json" for task in (*self.seen, *self.held_out) for part in ("train", "test")
            ]
            lines += [
                f"{path}: no such file; correct task.seen and task.held_out" for path in files if not path.is_file()
            ]
        text = experiment.model.text
        if text and text.encoder and not Path(text.encoder).is_dir():
            lines.append(f"{text.encoder}: no such folder; correct encoder in model.conditions")
        return lines

    def load(self, data_root: str | None) -> "AdapterTaskSet":
        from rpg.tasks.commonsense.adapter_tasks import AdapterTaskSet

        return AdapterTaskSet(self, data_root)
