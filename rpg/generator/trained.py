"""A trained RPG with all that generation needs: model, conditions, tokenizer and settings."""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rpg.blocks import PARAMS_FILE, Precision
from rpg.config.experiment import Experiment, Sample
from rpg.config.loading import load_params
from rpg.config.model import Diffusion, Model
from rpg.config.params import Params
from rpg.generator.prompt_images import ImageForm, ImagePrompt, given_prompt
from rpg.generator.prompt_questions import QuestionPrompt, chosen, given_questions
from rpg.generator.requests import task_code, zoo_membership
from rpg.generator.sample import sample_networks
from rpg.model.conditions import condition_name
from rpg.model.diffusion import T
from rpg.model.rpg import RPG
from rpg.model.set_encoder import SIDES, support_values
from rpg.paths import Paths, paths_of
from rpg.tasks.adapters import loaded, write_adapter
from rpg.tasks.base import ImageEncoder, Task
from rpg.tasks.config import TaskConfig
from rpg.tasks.loading import load_prompted, load_task, text_task
from rpg.tasks.stack import StateDict
from rpg.tokenizer.store import TokenStore
from rpg.tokenizer.tokenizer import Tokenizer
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_rpg, read_config
from rpg.training.prompts import MOST_QUESTIONS, prompts_base
from rpg.utils.condition_requests import NOT_ON_IMAGES, NOT_ON_QUESTIONS, States, Vectors
from rpg.utils.device import device
from rpg.utils.errors import UserError, suggestion
from rpg.utils.files import write_tensors

# A prompt with a larger share of unknown words gets a warning.
MOST_UNKNOWN = 0.2


@dataclass(frozen=True)
class GeneratedNetwork:
    """A generated network: its weights, and the permutation states and task code of its request."""

    state_dict: dict[str, Tensor]
    states: States
    code: str | None


@dataclass(frozen=True)
class Settings:
    """The sampler's settings, and the blocks of the model that it samples from."""

    sample: Sample
    precision: Precision
    model: Model
    diffusion: Diffusion


@dataclass(eq=False)
class TrainedRPG:
    """A trained RPG, loaded once to generate many networks.

    `held_out` are the task codes of the zoo that RPG never learned from. `language_model` is a folder of a causal
    language model that reads descriptions of tasks; None uses the built-in lexicon.
    """

    name: str
    task: TaskConfig
    settings: Settings
    model: RPG
    table: ConditionTable
    tokenizer: Tokenizer
    # Returns the content of adapter_config.json; None if the networks are no adapters.
    adapter_config: Callable[[], Any] | None
    held_out: Collection[str] = ()
    language_model: Path | None = None
    data_root: str | None = None
    # Returns the features of a prompt's images; None if RPG takes no images.
    encoder: Callable[[], ImageEncoder] | None = None
    # Whether the generator comes from a packed folder.
    packed: bool = False
    # The exported graph beside it.
    graph: Path | None = None

    @classmethod
    def of_experiment(cls, experiment: str, root: Path = Path(), architecture: str | None = None) -> "TrainedRPG":
        """Load the RPG of an experiment; `root` is the folder of params.yaml.

        `architecture` names an experiment whose networks a joint experiment's RPG makes. Raises UserError if
        params.yaml has no such experiment, if the experiment is not trained, or if the architecture is missing or
        unknown.
        """
        return cls.of_params(load_params(root / PARAMS_FILE), experiment, root, architecture)

    @classmethod
    def of_params(
        cls, params: Params, experiment: str, root: Path = Path(), architecture: str | None = None
    ) -> "TrainedRPG":
        """Load the RPG of an experiment in `params`, as `of_experiment` does."""
        if experiment in params.joint:
            return cls._of_joint(params, experiment, root, architecture)
        if architecture is not None:
            known = f"; those that take it: {', '.join(params.joint)}" if params.joint else ""
            raise UserError(f"--architecture: {experiment} makes networks of one architecture{known}")
        chosen = params.experiment(experiment)
        paths = paths_of(params, experiment, root / "results")
        store, folder = TokenStore(paths.folder("tokens")), paths.generator(chosen)
        config = read_config(folder)
        return cls(
            experiment,
            chosen.task,
            Settings(chosen.sample, chosen.train.precision, config.model, config.diffusion),
            load_rpg(folder, store, device()),
            ConditionTable.of(config.model.conditions, store),
            store,
            # `rpg tokens` ensures that adapters, and only adapters, have this key.
            None if chosen.tokens.canonical is None else lambda: load_task(chosen.task, None).adapter_config(),
            list(dict.fromkeys(checkpoint.code for checkpoint in store.held_out if checkpoint.code)),
            Path(params.language_model) if params.language_model else None,
            params.data_root,
            partial(_encoder, chosen, paths, params.data_root) if chosen.images else None,
        )

    @classmethod
    def _of_joint(cls, params: Params, name: str, root: Path, architecture: str | None) -> "TrainedRPG":
        """Load one architecture of a joint experiment's RPG."""
        from rpg.joint.architecture import architecture_of
        from rpg.joint.train import JointTraining

        joint = params.joint[name]
        if architecture is None:
            raise UserError(f"{name}: add --architecture; known: {', '.join(joint.experiments)}")
        if architecture not in joint.experiments:
            known = suggestion(architecture, joint.experiments)
            raise UserError(f"--architecture {architecture}: {name} has no such architecture{known}")
        training = JointTraining(params, name, joint.seeds[0], root / "results")
        parts, recipe = architecture_of(training, training.load(), architecture), training.recipe
        settings = Settings(recipe.sample, recipe.train.precision, recipe.model, recipe.diffusion)
        task = params.experiment(architecture).task
        return cls(name, task, settings, parts.model, parts.table, parts.tokenizer, None, data_root=params.data_root)

    @cached_property
    def image_features(self) -> ImageEncoder:
        """The features of a prompt's images; UserError if RPG takes no images."""
        if not self.encoder:
            raise UserError(NOT_ON_IMAGES)
        return self.encoder()

    @property
    def image_form(self) -> ImageForm:
        """The form of a prompt's images; UserError if RPG takes no images."""
        return ImageForm(self.image_features.shape, self.image_features.white)

    @property
    def takes_questions(self) -> bool:
        """Whether questions without answers ask for a network."""
        return self.settings.model.text is not None

    @property
    def states(self) -> int:
        """The number of permutation states."""
        return self.table.sizes.get("permutation_state", 1)

    @cached_property
    def benchmark(self) -> Task:
        """The task that builds and scores the networks."""
        return load_task(self.task, self.data_root)

    def networks(
        self,
        count: int,
        code: str | None,
        states: States | None,
        seed: int | None = None,
        steps: int | None = None,
        vectors: Vectors | None = None,
        prompt: ImagePrompt | QuestionPrompt | None = None,
    ) -> list[GeneratedNetwork]:
        """Generate `count` networks; each network draws a code or states that are None, and omitted vectors.

        `prompt` shows the task to an RPG that takes images or questions.

        Network k depends on the seed and on k alone. Raises UserError for an unknown state or vector, for a code if
        the experiment has no task codes, and for a number of steps outside of 1 to 1000.
        """
        if steps is not None and not 1 <= steps <= T:
            raise UserError(f"--steps {steps}: must be between 1 and {T}")
        own = self.settings.sample
        update = {"seed": own.seed if seed is None else seed, "steps": own.steps if steps is None else steps}
        requests = [(states, code)] * count
        networks = sample_networks(
            self.model,
            self.table,
            self.tokenizer,
            own.model_copy(update=update),
            requests,
            vectors,
            precision=self.settings.precision,
            prompts=None if prompt is None else self._values(prompt).expand(count, -1, -1, -1),
        )
        return [GeneratedNetwork(*network) for network in networks]

    def _values(self, prompt: ImagePrompt | QuestionPrompt) -> Tensor:
        if isinstance(prompt, QuestionPrompt):
            return support_values([[self._question_features(prompt)]])
        features = self.image_features(prompt.images)
        return support_values([[features[prompt.labels == side] for side in range(SIDES)]])

    def _question_features(self, prompt: QuestionPrompt) -> Tensor:
        condition = self.settings.model.text
        if condition is None:
            raise UserError(NOT_ON_QUESTIONS)
        return text_task(self.benchmark).text_features(condition, self._texts(prompt))

    def _texts(self, prompt: QuestionPrompt) -> list[str]:
        """Return the questions as the language model reads them."""
        task = text_task(self.benchmark)
        return [task.prompt_text(*question) for question in prompt.questions]

    def generate(
        self,
        classes: Sequence[int | str] | None,
        code: str | None,
        sentence: str | None,
        state: int | Sequence[int] | None,
        seed: int | None,
        steps: int | None,
        vectors: Vectors | None,
        images: Any = None,
        labels: Sequence[Any] | None = None,
        prompts: Sequence[Any] | None = None,
    ) -> StateDict:
        """Return the state dict of one network for a request in Python, as `rpg.generate` describes it."""
        named = task_code(self.task, classes, code, sentence, self.language_model)
        states = (state,) if isinstance(state, int) else state
        vectors = {name: [of] if isinstance(of, int | float) else of for name, of in (vectors or {}).items()}
        if images is not None and prompts is not None:
            raise UserError("images and prompts may contradict each other: give one of them")
        prompt: ImagePrompt | QuestionPrompt | None = None
        if images is not None:
            prompt = given_prompt(images, labels, self.image_form, seed or 0)
        elif prompts is not None:
            prompt = chosen(given_questions(prompts), seed or 0)
        for line in self.outside(vectors, prompt):
            warnings.warn(line, stacklevel=3)
        return self.networks(1, named, tuple(states) if states else None, seed, steps, vectors, prompt)[0].state_dict

    def outside(self, vectors: Vectors | None, prompt: ImagePrompt | QuestionPrompt | None = None) -> list[str]:
        """Return a line for each requested number outside of the zoo's range, and for questions of unknown words."""
        lines, condition = self.table.outside(vectors), self.settings.model.text
        if condition and isinstance(prompt, QuestionPrompt):
            share = text_task(self.benchmark).unknown_share(condition, self._texts(prompt))
            if share > MOST_UNKNOWN:
                lines.append(f"the language model does not know {100 * share:.0f} % of the questions' words")
        return lines

    def zoo_membership(self, code: str) -> str:
        """Return "seen", "held out" or "not in the zoo": whether the zoo has checkpoints for the task of `code`."""
        return zoo_membership(code, self.learned, self.held_out)

    @property
    def weights(self) -> int:
        """The number of generated weights of a network."""
        return self.tokenizer.layout.weights

    @property
    def learned(self) -> set[str]:
        """The task codes that RPG learned from."""
        rows = self.table.values["task_code"].int().unique(dim=0).tolist() if "task_code" in self.table.values else []
        return {"".join(map(str, row)) for row in rows}

    def vocabulary(self) -> dict[str, Any]:
        """Return condition → its choices: the number of states, the classes, or the range of each number in the zoo.

        Images have their shape (C, H, W), and prompts of questions the most questions.
        """
        found: dict[str, Any] = {}
        for condition in self.table.conditions:
            if condition.kind == "images":
                found["images"] = self.image_form.shape
                continue
            if condition.kind == "text":
                found["prompts"] = MOST_QUESTIONS
                continue
            values_NC = self.table.values[condition_name(condition)]
            if condition.kind == "permutation_state":
                found["permutation_state"] = values_NC.shape[1]
            elif condition.kind == "task_code":
                found["task_code"] = self.task.classes
            elif condition.kind == "vector":
                found[condition_name(condition)] = list(
                    zip(*(of.tolist() for of in values_NC.aminmax(dim=0)), strict=True)
                )
        return found

    def built(self, state_dict: StateDict, build: Callable[[], nn.Module] | None = None) -> nn.Module:
        """Return a new network in evaluation mode, on the CPU, with these weights; `build` makes that of a user's own.

        Raises UserError if the network's library is missing, or if only the user can build the network.
        """
        if build is not None:
            return loaded(build(), state_dict)
        if self.packed and not self.task.extra:
            raise UserError(
                f"{self.name}: the generator does not hold the code of its networks; give build=, a function"
            )
        try:
            return self.benchmark.built(state_dict)
        except ImportError as error:
            needs = f"needs {error.name}; install rpg-weights[{self.task.extra}]"
            raise UserError(f"{self.name}: the network {needs}") from error

    def write(self, path: Path, network: GeneratedNetwork) -> None:
        """Write a network into a .safetensors file, or an adapter into a folder that peft opens."""
        if self.adapter_config:
            write_adapter(path, self.adapter_config(), network.state_dict)
        else:
            write_tensors(path, network.state_dict, {"task_code": network.code} if network.code else None)


def _encoder(experiment: Experiment, paths: Paths, data_root: str | None) -> ImageEncoder:
    """Return the features of an experiment's base network."""
    return load_prompted(experiment.task, data_root).image_features(prompts_base(experiment, paths.folder("base")))
